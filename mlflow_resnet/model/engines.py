"""Other engines than torch's own network: ONNX Runtime, OpenVINO, and torch's exported programs.

Each can `convert` a classifier, `save` what that gives and `load` it from the content of its files, and build a forward
function of it. Those that NNCF quantizes name the two ends of the network, its first convolution and its head, and say
how NNCF passes pictures to it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.errors import MissingPackageError
from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prepared import IMAGES, PROBABILITIES, build_export_graph

NNCF, ONNX, ONNX_RUNTIME, ONNX_SCRIPT, OPENVINO = "nncf", "onnx", "onnxruntime", "onnxscript", "openvino"
EXTRAS = {NNCF: "int8", ONNX: "onnx", ONNX_RUNTIME: "onnx", ONNX_SCRIPT: "onnx", OPENVINO: "openvino"}
TELEMETRY = "openvino_telemetry"
NOT_TO_BE_HAD: Any = None  # as sys.modules says it
ONNX_GRAPH = "model.onnx"
OPENVINO_GRAPH, OPENVINO_WEIGHTS = "model.xml", "model.bin"
FLOATS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not in int8
PROGRAM_GRAPH = "model.pt2"


def import_package(package: str) -> Any:
    """An optional package.

    OpenVINO and NNCF would tell Google Analytics what they are used for, without asking, and write a number for the
    user into the home directory. They do without if the package for it is not to be had while they are imported. Raises
    MissingPackageError if it is not installed.
    """
    is_hidden = sys.modules.setdefault(TELEMETRY, NOT_TO_BE_HAD) is NOT_TO_BE_HAD
    try:
        return importlib.import_module(package)
    except ImportError:
        extra = EXTRAS[package]
        raise MissingPackageError(package, f"mlflow_resnet[{extra}]") from None
    finally:
        if is_hidden:
            del sys.modules[TELEMETRY]


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
        return files[ONNX_GRAPH]

    def adapt_input(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        return {IMAGES: pictures}

    def find_ends(self, model: Any) -> list[str]:
        layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        return [layers[0], layers[-1]]


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
        return import_package(OPENVINO).Core().read_model(files[OPENVINO_GRAPH], files[OPENVINO_WEIGHTS])

    def adapt_input(self, pictures: np.ndarray) -> np.ndarray:
        return pictures

    def find_ends(self, model: Any) -> list[str]:
        layers = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "MatMul")]
        return [layers[0].get_friendly_name(), layers[-1].get_friendly_name()]


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are channels last, which are all there
            return torch.export.load(io.BytesIO(files[PROGRAM_GRAPH]))


ENGINES: dict[str, Any] = {"onnx": OnnxEngine(), "openvino": OpenVinoEngine(), "torch_export": ProgramEngine()}


def quantize(engine: OnnxEngine | OpenVinoEngine, model: Any, pictures: Sequence[np.ndarray]) -> Any:
    """A model of `engine` with convolutions in int8, but for the first one, by NNCF's post-training quantization.

    The ranges of values come from `pictures`, uint8 of shape (1, 3, image_size, image_size) each. Weights have a range
    for each channel. What lowers the error most is that activations have the whole range seen, where NNCF's own choice,
    a mean over pictures, cuts off what is beyond it; next, that the two ends of the network stay floats.
    """
    nncf = import_package(NNCF)
    whole_range = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    is_quiet = is_own_process()  # NNCF shows its progress on stdout, and logs what nobody can act on
    if is_quiet:
        logging.getLogger(NNCF).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr) if is_quiet else contextlib.nullcontext():
        return nncf.quantize(
            model,
            nncf.Dataset(pictures, engine.adapt_input),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=engine.find_ends(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=whole_range),
        )
