"""The graph of a classifier as torch exports it, which the other engines read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prepared import PictureGraph

if TYPE_CHECKING:
    from torch.export import ExportedProgram

IMAGES, PROBABILITIES = "images", "probabilities"  # the graph's input and output, where a format names them


def graph_of(classifier: ImageClassifier, precision: str = "fp32") -> tuple[PictureGraph, Tensor]:
    """The graph on the CPU, and two pictures: of one alone, torch would take the number for fixed."""
    size = classifier.preprocessing.image_size
    return PictureGraph(classifier, precision).cpu().eval(), torch.zeros(2, 3, size, size, dtype=torch.uint8)


def exported_program(classifier: ImageClassifier, precision: str = "fp32") -> ExportedProgram:
    """The graph for any number of pictures."""
    from torch.export import Dim, export  # takes a second

    graph, example = graph_of(classifier, precision)
    with torch.no_grad():
        return export(graph, (example,), dynamic_shapes=({0: Dim("batch")},))
