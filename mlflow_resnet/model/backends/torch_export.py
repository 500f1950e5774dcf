"""torch's own exported programs, for other programs: mlflow_resnet itself predicts with the network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prepared import build_export_graph

PROGRAM_GRAPH = "model.pt2"


class ProgramForward:
    """An exported program, which threads may share."""

    def __init__(self, model: Any, precision: str) -> None:
        self._module = model.module()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        return self._module(images.cpu()).numpy()


class ProgramEngine:
    """Exports programs of torch."""

    packages = ()
    build_forward = ProgramForward

    def convert(self, classifier: ImageClassifier, precision: str = "fp32") -> Any:
        """A `torch.export.ExportedProgram` on the CPU, for any number of pictures."""
        graph, example = build_export_graph(classifier, precision)
        with torch.no_grad():
            return torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))

    def save(self, model: Any, folder: Path) -> None:
        content = io.BytesIO()
        torch.export.save(model, content)
        # torch would tell of a full disk in an error of its own
        (folder / PROGRAM_GRAPH).write_bytes(content.getbuffer())

    def load(self, files: Mapping[str, bytes]) -> Any:
        """Loads what `save` wrote from the content of its file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are channels last, which are all there
            return torch.export.load(io.BytesIO(files[PROGRAM_GRAPH]))
