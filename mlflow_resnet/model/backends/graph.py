"""The graph of a classifier that the other engines convert."""

from __future__ import annotations

import torch
from torch import Tensor

from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prepared import PictureGraph, picture_graph

IMAGES, PROBABILITIES = "images", "probabilities"  # the graph's input and output, where a format names them


def build_export_graph(classifier: ImageClassifier, precision: str = "fp32") -> tuple[PictureGraph, Tensor]:
    """The graph on the CPU, and two pictures: of one alone, torch would take the number for fixed."""
    size = classifier.preprocessing.image_size
    return picture_graph(classifier, precision).cpu().eval(), torch.zeros(2, 3, size, size, dtype=torch.uint8)
