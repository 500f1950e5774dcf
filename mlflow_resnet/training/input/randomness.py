"""Random numbers that belong to one image or one batch, whichever thread draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlflow_resnet.model.torch_seams import sample_dirichlet

# What draws from a generator (https://docs.pytorch.org/docs/stable/torch.html#random-sampling); the Beta distribution
# of MixUp draws through sample_dirichlet.
_DRAWING = {
    *(torch.bernoulli, torch.multinomial, torch.normal, torch.poisson, sample_dirichlet),
    *(torch.rand, torch.randint, torch.randn, torch.randperm),
    *(Tensor.bernoulli, Tensor.bernoulli_, Tensor.cauchy_, Tensor.exponential_, Tensor.geometric_),
    *(Tensor.log_normal_, Tensor.multinomial, Tensor.normal_, Tensor.random_, Tensor.uniform_),
}


class Seeded(TorchFunctionMode):
    """Inside the block, this thread's draws on the CPU come from a generator of their own, seeded with 64 bits.

    torchvision's transforms know only torch's global generator, which all threads share. A function mode belongs to
    its thread, so nothing waits for a lock, and the global generator stays as it is.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        generator = {"generator": self.generator} if function in _DRAWING else {}
        return function(*args, **generator | (kwargs or {}))
