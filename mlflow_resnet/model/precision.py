"""The number format of convolutions: where bf16 is faster, and where it was found not to change the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mlflow_resnet.errors import InvalidOptionsError, join_names
from mlflow_resnet.options.base import PRECISIONS

NATIVE_BF16 = ("arm_bf16", "bf16")  # CPU flags
NATIVE_BF16_IN_AVX512 = ("avx512_bf16", "amx_bf16")
WITHOUT_AVX512 = ("DEFAULT", "NO AVX", "AVX2")  # kernels that torch takes on an x86 CPU, which may have more
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOWEST_LABEL_AGREEMENT = 0.995
LARGEST_ACCURACY_LOSS = 0.005


@dataclass(frozen=True)
class PrecisionCheck:
    """A faster form of a network beside the one in fp32, on labeled images that it was not trained on.

    Attributes:
        images: their number.
        label_agreement: fraction of images to which both give the same class.
        accuracy_change: top-1 accuracy minus that of fp32, a fraction.
    """

    images: int
    label_agreement: float
    accuracy_change: float

    @property
    def passes(self) -> bool:
        """Whether the faster form may replace fp32."""
        same = self.label_agreement >= LOWEST_LABEL_AGREEMENT
        return self.images > 0 and same and self.accuracy_change >= -LARGEST_ACCURACY_LOSS


def scoring_precision(precision: str, device: torch.device, checks: Mapping[str, PrecisionCheck]) -> str:
    """The precision that scoring with `auto`, `bf16` or `fp32` uses on `device`.

    `auto` is bf16 where that is faster, if it passed its check when the model was logged; otherwise fp32. Raises
    InvalidOptionsError for any other, and for bf16 on a device that has none.
    """
    if precision not in PRECISIONS:
        raise InvalidOptionsError([f"precision is {precision!r}; choose one of {join_names(PRECISIONS)}"])
    if precision == "auto":
        check = checks.get("bf16")
        return "bf16" if check and check.passes and is_bf16_faster(device) else "fp32"
    pick_precision(precision, device)
    return precision


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type that training with `auto`, `bf16` or `fp32` computes convolutions in on `device`; weights stay float32.

    Raises InvalidOptionsError for bf16 on a device that has none.
    """
    if precision == "auto":
        return torch.bfloat16 if is_bf16_faster(device) else torch.float32
    if precision == "bf16" and device.type == "mps":
        raise InvalidOptionsError(["precision is 'bf16', which this device does not have; use auto or fp32"])
    return DTYPES[precision]


def is_bf16_faster(device: torch.device) -> bool:
    """Whether convolutions are faster in bf16 than in fp32: where the hardware has it, but for Intel's AVX-512.

    Intel's CPUs multiply bf16 at half the pace of fp32 in AVX-512, and at many times that in AMX, which hypervisors may
    hide: a ResNet-18 took 22 ms for an image in bf16 and 12.6 in fp32 there. AMD's have twice the pace of fp32.
    """
    if not has_native_bf16(device):
        return False
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16")) or not str(capabilities.get("cpu_name")).startswith("Intel")


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware has bf16. Elsewhere it is emulated, and slower than fp32.

    A CPU whose torch was told to do without AVX-512 (ATEN_CPU_CAPABILITY) is like one that has none.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and newer
        capabilities = torch.cpu.get_capabilities()
        is_older = torch.backends.cpu.get_cpu_capability() in WITHOUT_AVX512
        flags = NATIVE_BF16 if is_older else NATIVE_BF16 + NATIVE_BF16_IN_AVX512
        return any(capabilities.get(flag) for flag in flags)
    return False
