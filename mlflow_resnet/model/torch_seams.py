"""What this package assumes of torch (2.x) that torch does not promise: private names, operators, wordings of errors.

No other module has a name of torch that begins with an underscore. tests/test_torch_seams.py has a test for each.
"""

from __future__ import annotations

import torch
from torch import Size, Tensor
from torch.nn.modules.batchnorm import _BatchNorm

BatchNorm = _BatchNorm  # the class of all batch norms, SyncBatchNorm too
COMPILED_PREFIX = "_orig_mod"  # torch.compile puts it before the names of the weights
OUT_OF_MEMORY_ON_CPU = ("can't allocate memory", "could not create a primitive", "could not execute a primitive")
sample_dirichlet = torch._sample_dirichlet  # through which torch.distributions.Beta draws

Geometry = tuple[tuple[int, ...] | str, tuple[int, ...], tuple[int, ...], int]  # padding, stride, dilation, groups


def compute_with_one_core() -> None:
    """Has the calling thread compute with one core, and those that never computed before.

    torch does not promise that threads which have computed keep their cores. Others get theirs back by another call of
    `torch.set_num_threads`.
    """
    torch.set_num_threads(1)


def reorder_weight(weight: Tensor, geometry: Geometry, shape: Size) -> Tensor:
    """Returns the weight of a convolution in the order that oneDNN wants for inputs of one shape."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape))


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, then: str) -> Tensor:
    """Returns a convolution with a reordered weight, after the function `then`: "relu" or "none"."""
    return torch.ops.mkldnn._convolution_pointwise(inputs, weight, bias, *geometry, then, [], "")


def add_convolution_and_rectify(
    shortcut: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Returns ReLU of the sum of `shortcut` and a convolution, in the memory of `shortcut`."""
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        shortcut, inputs, weight, bias, *geometry, "add", 1.0, "relu", [], ""
    )
