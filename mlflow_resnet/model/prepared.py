"""Networks prepared for prediction on one device when a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Size, Tensor, nn

from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import fold_batch_norms, split_after
from mlflow_resnet.model.onednn import pack_stages
from mlflow_resnet.model.precision import DTYPES
from mlflow_resnet.model.preprocessing import Preprocessing

# uint8 images of shape (N, 3, image_size, image_size) to probabilities, float32 of shape (N, len(classes))
Forward = Callable[[Tensor], np.ndarray]
IMAGES, PROBABILITIES = "images", "probabilities"  # the graph's input and output, where a format names them
IMAGES_PER_THREAD = 4  # in a network at once; with more of them, each layer's output leaves the caches
SEVERAL = 8


class PictureGraph(nn.Module):
    """uint8 images to probabilities, as `Forward`: all that a classifier is, in one graph. The head is in fp32."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        stages: nn.Sequential,
        head: nn.Module,
        temperature: float,
        dtype: torch.dtype,
    ) -> None:
        """`stages` take inputs of `dtype`."""
        super().__init__()
        self.preprocessing, self.stages, self.head = preprocessing, stages, head
        self.temperature, self.dtype = temperature, dtype

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.preprocessing.normalize(images).to(self.dtype)
        features = self.stages(inputs.contiguous(memory_format=torch.channels_last))
        return (self.head(features.float()) / self.temperature).softmax(dim=1)

    def pack_for(self, shape: Size) -> PictureGraph:
        """One that is fastest for images of that shape on a CPU."""
        stages = pack_stages(self.stages, shape, self.dtype)
        return PictureGraph(self.preprocessing, stages, self.head, self.temperature, self.dtype)


def picture_graph(classifier: ImageClassifier, precision: str = "fp32") -> PictureGraph:
    """Batch norms are folded into convolutions, channels last; the stages compute in `precision`."""
    stages, head = split_after(fold_batch_norms(classifier.network), "layer4")
    dtype = DTYPES[precision]
    stages = stages.to(dtype).to(memory_format=torch.channels_last)
    return PictureGraph(classifier.preprocessing, stages, head, classifier.temperature, dtype)


def build_export_graph(classifier: ImageClassifier, precision: str = "fp32") -> tuple[PictureGraph, Tensor]:
    """The graph on the CPU, and two pictures: of one alone, torch would take the number for fixed."""
    size = classifier.preprocessing.image_size
    return picture_graph(classifier, precision).cpu().eval(), torch.zeros(2, 3, size, size, dtype=torch.uint8)


class TorchForward:
    """The graph on a device. Safe to share by threads.

    On a CPU it takes so many images at once as caches hold, with a graph of its own for one image and for several.
    """

    def __init__(self, classifier: ImageClassifier, device: torch.device, precision: str = "fp32") -> None:
        self.device, self.graph = device, picture_graph(classifier, precision).to(device)
        self.image_size = classifier.preprocessing.image_size
        self.packed_for = cache(self.graph.pack_for)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        if self.device.type != "cpu":
            return self.graph(images.to(self.device)).cpu().numpy()
        parts = images.split(IMAGES_PER_THREAD * torch.get_num_threads())
        return torch.cat([self._graph_for(part)(part) for part in parts]).numpy()

    def _graph_for(self, images: Tensor) -> PictureGraph:
        number, *shape = images.shape
        if images.shape[-1] != self.image_size:
            return self.graph
        return self.packed_for(Size([1 if number == 1 else SEVERAL, *shape]))


def with_mirror_images(forward: Forward) -> Forward:
    """The mean of the probabilities of each image and its mirror image.

    A. Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, NeurIPS 2012, section 4.1,
    average the softmax outputs of crops and their reflections. The mean of the logits would amount to the geometric
    mean of the probabilities, which one view that is sure of its no can decide alone.
    """

    def averaged(images: Tensor) -> np.ndarray:
        return (forward(images) + forward(images.flip(3))) / 2

    return averaged


def network_on(classifier: ImageClassifier, device: torch.device) -> nn.Module:
    """The classifier's network in fp32 on a device, batch norms folded, channels last."""
    return fold_batch_norms(classifier.network).to(device).to(memory_format=torch.channels_last)
