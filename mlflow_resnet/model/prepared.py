"""Networks made ready to predict on one device: what can be done once is done when a model is loaded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import fold_batch_norms, split_after
from mlflow_resnet.model.precision import DTYPES

# uint8 images of shape (N, 3, image_size, image_size) to probabilities, float32 of shape (N, len(classes))
Forward = Callable[[Tensor], np.ndarray]


class PictureGraph(nn.Module):
    """uint8 images to probabilities, as `Forward`: all that a classifier is, in one graph.

    Batch norms are folded into convolutions, channels last; the stages compute in `precision`, the rest in fp32.
    """

    def __init__(self, classifier: ImageClassifier, precision: str = "fp32") -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.preprocessing, self.temperature = classifier.preprocessing, classifier.temperature
        stages, self.head = split_after(fold_batch_norms(classifier.network), "layer4")
        self.stages = stages.to(self.dtype).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.preprocessing.normalize(images).to(self.dtype)
        features = self.stages(inputs.contiguous(memory_format=torch.channels_last))
        return (self.head(features.float()) / self.temperature).softmax(dim=1)


class TorchForward:
    """The graph on a device. Safe to share by threads."""

    def __init__(self, classifier: ImageClassifier, device: torch.device, precision: str = "fp32") -> None:
        self.device, self.graph = device, PictureGraph(classifier, precision).to(device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        return self.graph(images.to(self.device)).cpu().numpy()


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
