"""A ResNet's stages as fused oneDNN convolutions for a CPU.

They add the shortcut and apply ReLU while the sums are still in a register, and take weights in the order that is best
for one shape of input, put into it once. torch.compile emits the same operators when it freezes a network; they are not
public, so a network made of them is compared with the usual one before it is used.
"""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from mlflow_resnet.model.torch_seams import add_convolution_and_rectify, convolve, reorder_weight

# Of the largest output; something else would differ by far more. Kernels of float32 add up in their own order, in
# which 150 layers of 4608 products may differ by 1e-3; bf16 has 2**-9 for a unit and is rounded at other places.
LARGEST_DIFFERENCE = {torch.float32: 2e-3, torch.bfloat16: 0.05}


def pack_stages(stages: nn.Sequential, shape: Size, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Returns a module that computes the same as `stages`, fused for `dtype` inputs of one shape (N, 3, H, W).

    `stages` itself where torch has no such operators, or they do not compute the same on this CPU.
    """
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            expected, (found, modules) = stages(inputs), _pack_each(stages, inputs)
    except Exception:  # whatever becomes of operators that nobody promised
        return stages
    is_same = (found - expected).abs().max() <= LARGEST_DIFFERENCE[dtype] * expected.abs().max()
    return nn.Sequential(*modules) if is_same else stages


def _pack_each(stages: nn.Sequential, inputs: Tensor) -> tuple[Tensor, list[nn.Module]]:
    """Returns the outputs for `inputs`, which set the shapes, and the packed modules."""
    modules: list[nn.Module] = []
    for stage in stages:
        for module in stage if isinstance(stage, nn.Sequential) else [stage]:
            if isinstance(module, nn.Conv2d):
                module = PackedConv(module, inputs)
            elif isinstance(module, (BasicBlock, Bottleneck)):
                module = PackedBlock(module, inputs.clone())
            modules.append(module)
            inputs = module(inputs)
    return inputs, modules


class PackedConv(nn.Module):
    """A convolution."""

    def __init__(self, conv: nn.Conv2d, inputs: Tensor) -> None:
        """Its weights get the order that is best for the shape of `inputs`."""
        super().__init__()
        self.bias = conv.bias
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        weight = conv.weight.contiguous()
        self.weight = reorder_weight(weight, self.geometry, inputs.shape)

    def forward(self, inputs: Tensor, then: str = "none") -> Tensor:
        """`then` is "relu" or "none"."""
        return convolve(inputs, self.weight, self.bias, self.geometry, then)

    def add_to(self, shortcut: Tensor, inputs: Tensor) -> Tensor:
        """ReLU of the sum, in the memory of `shortcut`."""
        return add_convolution_and_rectify(shortcut, inputs, self.weight, self.bias, self.geometry)


class PackedBlock(nn.Module):
    """A BasicBlock or a Bottleneck. It may overwrite its input."""

    def __init__(self, block: BasicBlock | Bottleneck, inputs: Tensor) -> None:
        super().__init__()
        *first, last = [module for module in block.children() if isinstance(module, nn.Conv2d)]
        self.shortcut = nn.Identity() if block.downsample is None else PackedConv(block.downsample[0], inputs)
        self.first = nn.ModuleList()
        for conv in first:
            self.first.append(PackedConv(conv, inputs))
            inputs = self.first[-1](inputs, "relu")
        self.last = PackedConv(last, inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs
        for conv in self.first:
            outputs = conv(outputs, "relu")
        return self.last.add_to(self.shortcut(inputs), outputs)
