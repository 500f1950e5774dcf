"""The optimizer: which parameters it changes, and how fast each at a step; and the average of what it makes of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlflow_resnet.model.network import find_stage
from mlflow_resnet.options.train import STAGES
from mlflow_resnet.training.recipe import Recipe

MOMENTUM = 0.9
TENSORS_KEPT = {"sgd": 1, "adamw": 2}  # of the size of each parameter
STAGES_FROM_HEAD = ("head", *reversed(STAGES))
FINAL_LEARNING_RATE = 1e-7  # of the polynomial, as in the designer
MAX_WARMUP_OF_BUDGET = 0.2

FALLS = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "polynomial": lambda progress: (1 - progress) ** 2,
    "step": lambda progress: 0.1 ** int(3 * progress),
    "constant": lambda progress: 1.0,
}

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW, over the parameters that are not frozen.

    Each group has a `rate_factor` besides its `lr`: `layer_decay` to the power of the stage's distance from the head.
    Weight decay applies to weights of convolutions and the head, not to batch norms and biases.
    """
    members: dict[tuple[float, float], list[Parameter]] = defaultdict(list)  # of a factor and weight decay
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = recipe.layer_decay ** STAGES_FROM_HEAD.index(find_stage(name))
            decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decay_all else 0.0
            members[factor, decay].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": params, "rate_factor": factor, "weight_decay": decay} for (factor, decay), params in members.items()
    ]
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.learning_rate, fused=True)
    return SGD(groups, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True, fused=True)


def name_optimizer_state(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Returns what the optimizer keeps of each parameter by a name such as `fc.weight.momentum_buffer`."""
    return {
        f"{name}.{key}": tensor
        for name, parameter in module.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
        if tensor is not None
    }


def load_optimizer_state(optimizer: Optimizer, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Undoes `name_optimizer_state`; tensors get the device and memory format of their parameter."""
    parameters = dict(module.named_parameters())
    for place, tensor in state.items():
        name, _, key = place.rpartition(".")
        parameter = parameters[name]
        like = torch.empty_like(parameter) if tensor.shape == parameter.shape else tensor.to(parameter.device)
        optimizer.state[parameter][key] = like.copy_(tensor)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets `rate`, for each group times its `rate_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


class Schedule:
    """Progress of a training from 0 to 1, and the learning rate there.

    The end is after `steps` or after `seconds`, whichever comes first, so that a time budget ends at the low rates of
    the fall and not in the middle. Without a budget the rate depends on the step alone.

    Args:
        name: cosine, polynomial (power 2 to 1e-7, the designer's), step (a tenth after each third) or constant.
        warmup_steps: of a linear rise, from 0 to `steps`; in a budget it takes a fifth of the time at most.
        seconds: the time budget; infinite if there is none.
    """

    def __init__(self, name: str, highest: float, steps: int, warmup_steps: int, seconds: float = math.inf) -> None:
        self.name, self.highest = name, highest
        self.steps, self.warmup_steps, self.seconds = steps, warmup_steps, max(seconds, 1e-9)
        self.fall_from: float | None = None

    def progress(self, step: int, elapsed: float = 0.0) -> float:
        """Fraction of the training that is done before `step` (0 for the first), `elapsed` seconds after its start."""
        return min(max(step / self.steps, elapsed / self.seconds), 1.0)

    def rate(self, step: int, elapsed: float = 0.0) -> float:
        """The learning rate of `step`. Ask in the order of the steps."""
        progress = self.progress(step, elapsed)
        if step < self.warmup_steps and elapsed / self.seconds < MAX_WARMUP_OF_BUDGET:
            return self.highest * (step + 1) / (self.warmup_steps + 1)
        if self.fall_from is None:
            self.fall_from = progress
        fall = FALLS[self.name]((progress - self.fall_from) / max(1 - self.fall_from, 1e-9))
        lowest = FINAL_LEARNING_RATE if self.name == "polynomial" else 0.0
        return lowest + (self.highest - lowest) * fall


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers; `update_parameters(network)` after each step.

    The decay begins low and rises to `decay` as (1 + steps) / (10 + steps), as in TensorFlow's
    ExponentialMovingAverage, so that in a short run the average does not consist of the initial weights.
    """

    def average(averages: Tensors, values: Tensors, steps: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            for mean, value in zip(averages, values, strict=True):
                mean.copy_(value)
            return
        present = min(decay, (1 + float(steps)) / (10 + float(steps)))
        get_ema_multi_avg_fn(present)(averages, values, steps)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
