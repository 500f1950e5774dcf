"""Packages that an extra installs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from mlflow_resnet.errors import MissingPackageError

NNCF, ONNX, ONNX_RUNTIME, ONNX_SCRIPT, OPENVINO = "nncf", "onnx", "onnxruntime", "onnxscript", "openvino"
EXTRAS = {NNCF: "int8", ONNX: "onnx", ONNX_RUNTIME: "onnx", ONNX_SCRIPT: "onnx", OPENVINO: "openvino"}
TELEMETRY = "openvino_telemetry"
NOT_TO_BE_HAD: Any = None  # as sys.modules says it


def import_package(package: str) -> Any:
    """An optional package.

    OpenVINO and NNCF would tell Google Analytics what they are used for, without asking, and write a number for the
    user into the home directory. They do without if the package for it is not to be had while they are imported.

    Raises MissingPackageError if it is not installed.
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
