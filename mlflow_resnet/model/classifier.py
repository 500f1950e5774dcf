"""ImageClassifier: the one value that training returns, evaluation and scoring use, and the flavor saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mlflow_resnet.model.network import build_network
from mlflow_resnet.model.precision import PrecisionCheck
from mlflow_resnet.model.preprocessing import Preprocessing


@dataclass(frozen=True)
class ImageClassifier:
    """A network with all that is needed to use it: weights never travel without classes and preprocessing.

    Attributes:
        architecture: torchvision's name of the network.
        classes: class names; the network's output i is the score of `classes[i]`.
        preprocessing: what happens to an image before it reaches the network.
        network: takes float32 of shape (N, 3, image_size, image_size), returns logits of shape (N, len(classes)).
        temperature: what the logits are divided by before the softmax, so that confidence can be believed.
        training: how it was trained, as JSON: recipe and transformations; empty if that is not known.
        precision_checks: what was found of other precisions than fp32, by their names; empty if none was tried.
    """

    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    network: nn.Module
    temperature: float = 1.0
    training: Mapping[str, Any] = field(default_factory=dict)
    precision_checks: Mapping[str, PrecisionCheck] = field(default_factory=dict)


def new_classifier(
    architecture: str,
    classes: tuple[str, ...],
    preprocessing: Preprocessing | None = None,
    *,
    zero_init_residual: bool = False,
    random_seed: int = 1,
) -> ImageClassifier:
    """A randomly initialized classifier."""
    network = build_network(architecture, len(classes), zero_init_residual=zero_init_residual, random_seed=random_seed)
    return ImageClassifier(architecture, classes, preprocessing or Preprocessing(), network)
