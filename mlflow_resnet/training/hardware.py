"""What the machine can do: precision, memory that is kept, and errors that mean there is too little of it."""

from __future__ import annotations

import ctypes
import sys

import torch

from mlflow_resnet.errors import InvalidOptionsError

NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")  # CPU flags
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type that `auto`, `bf16` or `fp32` computes convolutions in on `device`; weights stay float32.

    Raises:
        InvalidOptionsError: for bf16 on a device that has none.
    """
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if precision == "bf16" and device.type == "mps":
        raise InvalidOptionsError(["precision is 'bf16', which this device does not have; use auto or fp32"])
    return DTYPES[precision]


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32: where it is emulated, as on older CPUs, it is slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and newer
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(flag) for flag in NATIVE_BF16)
    return False


def use_tensor_cores() -> None:
    """Lets fp32 matrix products and convolutions on NVIDIA GPUs round their inputs to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def keep_freed_memory() -> None:
    """Has glibc keep what is freed instead of giving it back to the system at every step.

    The system has to clear each page that it hands out again: without this, training on a CPU is about 10 % slower.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
