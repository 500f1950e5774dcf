"""What a peer's training consists of, and what the peers' recipes have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from setting import Setting
from torch import Tensor, nn
from torch.optim import Optimizer

LEARNING_RATE, PER_IMAGES = 0.1, 256  # both scripts' documented rate, for a batch of 256
FINE_TUNING = 0.1  # of the learning rate from scratch


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        loader: batches of (images, targets), afresh on each iteration.
        epoch_images: images in them.
        end_epoch: told how many epochs are over; sets the learning rate.
        watch: told (loss, output, targets) of each step, and reads what the peer's script reads.
        eval_loader: batches of a directory, through the script's preprocessing for evaluation.
    """

    network: nn.Module
    loader: Iterable[Any]
    epoch_images: int
    criterion: nn.Module
    optimizer: Optimizer
    end_epoch: Callable[[int], object]
    watch: Callable[[Tensor, Tensor, Tensor], object]
    eval_loader: Callable[[Path], Iterable[Any]]


def learning_rate(setting: Setting, batch_size: int) -> float:
    """In proportion to the batch; a tenth to fine-tune, as timm's author advises (issue 25), for both peers."""
    from_scratch = LEARNING_RATE * batch_size / PER_IMAGES
    return from_scratch * FINE_TUNING if setting.weights and not setting.linear_probe else from_scratch


def start_from(network: nn.Module, setting: Setting) -> None:
    """Loads the setting's weights, which have no head; for a linear probe all but the head is frozen."""
    if setting.weights:
        body = torch.load(setting.weights, weights_only=True)
        head = {key: tensor for key, tensor in network.state_dict().items() if key.startswith("fc.")}
        network.load_state_dict(body | head)
    if setting.linear_probe:
        for name, parameter in network.named_parameters():
            parameter.requires_grad = name.startswith("fc.")
