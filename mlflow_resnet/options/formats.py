"""What a model can be exported to, and what can predict with it."""

from __future__ import annotations

EXPORT_FORMATS = {  # what `export` writes, by the engine's name in `model/engines.py`, and in which precisions
    "onnx": ("fp32", "int8"),  # ONNX Runtime has no convolutions in bf16 on CPUs
    "openvino": ("fp32", "bf16", "int8"),
    "torch_export": ("fp32", "bf16"),
}
# A model cannot have torch_export as its backend.
BACKEND_PRECISIONS = {"torch": ("fp32", "bf16")} | {name: EXPORT_FORMATS[name] for name in ("onnx", "openvino")}
