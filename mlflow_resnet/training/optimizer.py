"""The optimizer: which parameters it changes, and how fast each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer

from mlflow_resnet.model.network import find_stage
from mlflow_resnet.options.train import STAGES
from mlflow_resnet.training.recipe import Recipe

MOMENTUM = 0.9
TENSORS_KEPT = {"sgd": 1, "adamw": 2}  # of the size of each parameter
STAGES_FROM_HEAD = ("head", *reversed(STAGES))


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW, over the parameters that are not frozen.

    Each group has a `rate_factor` besides its `lr`: `layer_decay` to the power of the stage's distance from the head.
    Weight decay applies to weights of convolutions and the head, not to batch norms and biases.
    """
    groups = parameter_groups(network, recipe)
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.learning_rate, fused=True)
    return SGD(groups, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True, fused=True)


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters of the same stage and weight decay, together."""
    members: dict[tuple[float, float], list[Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = recipe.layer_decay ** STAGES_FROM_HEAD.index(find_stage(name))
            decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decay_all else 0.0
            members[factor, decay].append(parameter)
    return [
        {"params": params, "rate_factor": factor, "weight_decay": decay} for (factor, decay), params in members.items()
    ]


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
