"""ONNX, as ONNX Runtime runs it on CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.model.backends.packages import ONNX, ONNX_RUNTIME, ONNX_SCRIPT, import_package
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prepared import IMAGES, PROBABILITIES, build_export_graph

ONNX_GRAPH = "model.onnx"


class OnnxForward:
    """A session of ONNX Runtime, which threads may share."""

    def __init__(self, model: Any, precision: str) -> None:
        runtime = import_package(ONNX_RUNTIME)
        content = model if isinstance(model, bytes) else model.SerializeToString()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others decode meanwhile
        self._session = runtime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> np.ndarray:
        (probabilities,) = self._session.run([PROBABILITIES], {IMAGES: images.cpu().numpy()})
        return probabilities


class OnnxEngine:
    """Exports to ONNX, and predicts with ONNX Runtime."""

    packages = (ONNX_RUNTIME, ONNX, ONNX_SCRIPT)  # to predict with exported files the first is enough
    build_forward = OnnxForward

    def convert(self, classifier: ImageClassifier, precision: str = "fp32") -> Any:
        """An `onnx.ModelProto` in fp32 for any number of pictures."""
        for package in self.packages[1:]:
            import_package(package)
        graph, example = build_export_graph(classifier)
        with torch.no_grad():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[IMAGES],
                output_names=[PROBABILITIES],
                dynamic_shapes=({0: "batch"},),
            )
        return program.model_proto  # type: ignore[union-attr]

    def save(self, model: Any, folder: Path) -> None:
        (folder / ONNX_GRAPH).write_bytes(model.SerializeToString())

    def load(self, files: Mapping[str, bytes]) -> bytes:
        """Loads what `save` wrote from the content of its file."""
        return files[ONNX_GRAPH]

    def adapt_input(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Returns pictures as NNCF passes them to the model."""
        return {IMAGES: pictures}

    def find_ends(self, model: Any) -> list[str]:
        """The names of the first convolution and of the head."""
        layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        return [layers[0], layers[-1]]
