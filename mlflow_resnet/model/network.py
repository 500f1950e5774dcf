"""Builds torchvision's ResNets, picks a device, freezes stages, splits networks, and folds batch norms for scoring."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import get_model

from mlflow_resnet.errors import InvalidOptionsError, join_names
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.model.torch_seams import BatchNorm
from mlflow_resnet.options.train import ARCHITECTURES, STAGES

DEVICE_TYPES = ("cpu", "cuda", "mps")


def build_network(
    architecture: str, num_classes: int, *, zero_init_residual: bool = False, random_seed: int = 1
) -> nn.Module:
    """A randomly initialized network with one output per class. The global random state stays as it was.

    Raises InvalidOptionsError if `architecture` is not one of `ARCHITECTURES`.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidOptionsError([f"architecture is {architecture!r}; choose one of {join_names(ARCHITECTURES)}"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed)
        return get_model(architecture, weights=None, num_classes=num_classes, zero_init_residual=zero_init_residual)


def assemble_network(architecture: str, num_classes: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """A network made of the tensors of a state_dict, which are not copied."""
    with torch.device("meta"):
        network = build_network(architecture, num_classes)
    network.load_state_dict(dict(weights), assign=True)
    return network


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU. Raises InvalidOptionsError for a device that does not exist here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if torch.device(device).type not in DEVICE_TYPES:
            raise RuntimeError("unknown type")
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        problem = f"device is {device!r}, which cannot be used here ({one_line(error)}); try auto or cpu"
        raise InvalidOptionsError([problem]) from None


def find_stage(name: str) -> str:
    """The stage that the parameter or module `name` of a ResNet, or of its head alone, belongs to."""
    first = name.split(".")[0]
    if first in STAGES:
        return first
    return "stem" if first in ("conv1", "bn1") else "head"


def stages_until(stage: str) -> tuple[str, ...]:
    """The stages from the image to `stage`, which is included; none for "none"."""
    return STAGES[: STAGES.index(stage) + 1] if stage != "none" else ()


def freeze_stages(network: nn.Module, until: str) -> None:
    """Only the stages after `until` get gradients from now on."""
    frozen = stages_until(until)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(find_stage(name) not in frozen)


def train_mode(network: nn.Module, frozen_until: str) -> None:
    """Train mode, but for the frozen stages: their batch norms would go on to adapt to the images."""
    network.train()
    for name, module in network.named_children():
        if find_stage(name) in stages_until(frozen_until):
            module.eval()


def split_after(network: nn.Module, stage: str) -> tuple[nn.Sequential, nn.Sequential]:
    """A ResNet in two: from the image to the end of `stage`, and from there to the logits. Both share its modules."""
    names = [name for name, _ in network.named_children()]
    *modules, head = network.children()
    modules += [nn.Flatten(), head]
    end = names.index(stage) + 1
    return nn.Sequential(*modules[:end]), nn.Sequential(*modules[end:])


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of a ResNet, in eval mode, with every batch norm folded into the convolution before it."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNorm):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return network
