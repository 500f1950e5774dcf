"""What a model can be exported to, and what can predict with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportFormat:
    """A form that `export` writes by an engine of `model/engines.py`. Some can also be a model's backend."""

    precisions: tuple[str, ...]
    is_backend: bool = True


EXPORT_FORMATS = {
    "onnx": ExportFormat(("fp32", "int8")),  # ONNX Runtime has no convolutions in bf16 on CPUs
    "openvino": ExportFormat(("fp32", "bf16", "int8")),
    "torch_export": ExportFormat(("fp32", "bf16"), is_backend=False),
}
BACKEND_PRECISIONS = {"torch": ("fp32", "bf16")} | {
    name: each.precisions for name, each in EXPORT_FORMATS.items() if each.is_backend
}
