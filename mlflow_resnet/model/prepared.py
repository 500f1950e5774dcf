"""Networks prepared for prediction on one device when a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Size, Tensor, nn

from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import fold_batch_norms, split_after
from mlflow_resnet.model.onednn import pack_stages
from mlflow_resnet.model.precision import DTYPES

# uint8 images of shape (N, 3, image_size, image_size) to probabilities, float32 of shape (N, len(classes))
Forward = Callable[[Tensor], np.ndarray]
IMAGES, PROBABILITIES = "images", "probabilities"  # the graph's input and output, where a format names them
IMAGES_PER_THREAD = 4  # in a network at once; with more of them, each layer's output leaves the caches
SEVERAL = 8


class PictureGraph(nn.Module):
    """uint8 images to probabilities, as `Forward`: all that a classifier is, in one graph.

    Batch norms are folded into convolutions, channels last. The stages compute in `precision`, the head in fp32.
    """

    def __init__(self, classifier: ImageClassifier, precision: str = "fp32") -> None:
        super().__init__()
        stages, self.head = split_after(fold_batch_norms(classifier.network), "layer4")
        self.preprocessing, self.temperature = classifier.preprocessing, classifier.temperature
        self.dtype = DTYPES[precision]
        self.stages = stages.to(self.dtype).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.predict_with(self.stages, images)

    def predict_with(self, stages: nn.Module, images: Tensor) -> Tensor:
        """The same with another form of its stages."""
        inputs = self.preprocessing.normalize(images).to(self.dtype)
        features = stages(inputs.contiguous(memory_format=torch.channels_last))
        return (self.head(features.float()) / self.temperature).softmax(dim=1)


def build_export_graph(classifier: ImageClassifier, precision: str = "fp32") -> tuple[PictureGraph, Tensor]:
    """The graph on the CPU, and two pictures: of one alone, torch would take the number for fixed."""
    size = classifier.preprocessing.image_size
    return PictureGraph(classifier, precision).cpu().eval(), torch.zeros(2, 3, size, size, dtype=torch.uint8)


class TorchForward:
    """The graph on a device. Safe to share by threads.

    On a CPU it takes so many images at once as caches hold, with stages of their own for one image and for several.
    """

    def __init__(self, classifier: ImageClassifier, device: torch.device, precision: str = "fp32") -> None:
        self.device, self.graph = device, PictureGraph(classifier, precision).to(device)
        self.image_size = classifier.preprocessing.image_size
        self.pack_for = cache(partial(pack_stages, self.graph.stages, dtype=self.graph.dtype))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        if self.device.type != "cpu":
            return self.graph(images.to(self.device)).cpu().numpy()
        parts = images.split(IMAGES_PER_THREAD * torch.get_num_threads())
        return torch.cat([self.graph.predict_with(self._stages_for(part), part) for part in parts]).numpy()

    def _stages_for(self, images: Tensor) -> nn.Module:
        number, *shape = images.shape
        if images.shape[-1] != self.image_size:
            return self.graph.stages
        return self.pack_for(Size([1 if number == 1 else SEVERAL, *shape]))


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
