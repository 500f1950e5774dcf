"""What a contestant is asked to train, and what it hands back. Ours and the peers share these two values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Setting:
    """One training.

    Attributes:
        train_dir: directory of class folders.
        val_dir: the same classes; None: peers do not validate. Ours always does.
        crop_size: pixels of the square the network sees.
        batch_size: images per step; None: the contestant's own default.
        workers: processes of a peer's DataLoader; ours decodes in threads, one per core.
        device: cpu or cuda.
        weights: state_dict without a head to start from; None: random weights.
        linear_probe: train the head only; everything before it stays as it is.
        ours: further options of mlflow_resnet.
    """

    train_dir: Path
    val_dir: Path | None
    crop_size: int
    architecture: str = "resnet18"
    batch_size: int | None = None
    epochs: int = 2
    workers: int = 0
    seed: int = 1
    device: str = "cpu"
    weights: Path | None = None
    linear_probe: bool = False
    ours: dict[str, Any] = field(default_factory=dict)

    @property
    def resize_size(self) -> int:
        """Pixels of the shorter edge before the central crop, in ImageNet's proportion of 256 to 224."""
        return round(self.crop_size * 256 / 224)


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        epoch_images: images that an epoch trained on; a contestant may drop the last batch.
        epoch_seconds: training part of each epoch, loading included, validation not.
        total_seconds: the whole call: set-up, cache, training and validation.
        network: with the weights that the contestant would keep.
        score: top-1 accuracy, a fraction, on another directory of the same classes.
    """

    epoch_images: int
    epoch_seconds: list[float]
    total_seconds: float
    network: nn.Module
    score: Callable[[Path], float]


CONTESTANTS = {"ours": "ours:fit", "torchvision": "peers:fit_torchvision", "timm": "peers:fit_timm"}


def loaded(name: str) -> Any:
    """The function that `module:function` names, imported only now: a process holds only what it measures.

    For the same reason the scripts import `data`, which needs MLflow, in their functions: a spawned process imports
    the script.
    """
    module, function = name.split(":")
    return getattr(import_module(module), function)


def fit(contestant: str, setting: Setting) -> Trained:
    """Lets a contestant train in this process."""
    return loaded(CONTESTANTS[contestant])(setting)
