"""OpenVINO: Intel's engine for CPUs."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.model.backends.packages import OPENVINO, import_package
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prepared import IMAGES, PROBABILITIES, build_export_graph

OPENVINO_GRAPH, OPENVINO_WEIGHTS = "model.xml", "model.bin"
FLOATS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not in int8


class OpenVinoForward:
    """A compiled model. Threads share it: each call takes a request of its own."""

    def __init__(self, model: Any, precision: str) -> None:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": FLOATS[precision],
        }
        self._compiled = import_package(OPENVINO).Core().compile_model(model, "CPU", settings)
        self._idle: deque[Any] = deque()

    def __call__(self, images: Tensor) -> np.ndarray:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(images.cpu().numpy())], share_inputs=True)
        probabilities = request.get_output_tensor().data.copy()
        self._idle.append(request)
        return probabilities


class OpenVinoEngine:
    """Exports to OpenVINO, and predicts with it."""

    packages = (OPENVINO,)
    build_forward = OpenVinoForward

    def convert(self, classifier: ImageClassifier, precision: str = "fp32") -> Any:
        """An `openvino.Model` in fp32 for any number of pictures; its precision is chosen when it is compiled."""
        graph, example = build_export_graph(classifier)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that OpenVINO should not trace
            model = import_package(OPENVINO).convert_model(graph, example_input=example)
        model.inputs[0].tensor.set_names({IMAGES})
        model.outputs[0].tensor.set_names({PROBABILITIES})
        model.reshape([-1, *example.shape[1:]])
        return model

    def save(self, model: Any, folder: Path) -> None:
        import_package(OPENVINO).save_model(model, folder / OPENVINO_GRAPH, compress_to_fp16=False)

    def load(self, files: Mapping[str, bytes]) -> Any:
        """Loads what `save` wrote from the content of its files."""
        return import_package(OPENVINO).Core().read_model(files[OPENVINO_GRAPH], files[OPENVINO_WEIGHTS])

    def adapt_input(self, pictures: np.ndarray) -> np.ndarray:
        """Returns pictures as NNCF passes them to the model."""
        return pictures

    def find_ends(self, model: Any) -> list[str]:
        """The names of the first convolution and of the head."""
        layers = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "MatMul")]
        return [layers[0].get_friendly_name(), layers[-1].get_friendly_name()]
