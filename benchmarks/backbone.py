"""Weights to start from that favor no contestant: trained here on other data, then kept in a file, without the head."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from alternate import Measurement, in_fresh_process, say
from setting import Setting, fit

OTHER_DATA = {"solar": "mnist", "solar-grouped": "mnist", "digits": "mnist", "mnist": "digits"}
CROP_SIZE = 64  # pixels; a ResNet takes any size, and small images train fast
EPOCHS, QUICK_EPOCHS = 10, 1
QUICK_IMAGES = 64


def backbone(data_dir: Path, data_set: str, quick: bool) -> Path:
    """A resnet18 for `data_set`, trained on other data by torchvision's recipe unless the file is there."""
    import data

    other = OTHER_DATA[data_set]
    epochs = QUICK_EPOCHS if quick else EPOCHS
    path = data_dir / "backbones" / f"resnet18-{other}-{epochs}-epochs.pth"
    if not path.exists():
        say(f"training a backbone on {other}: {epochs} epochs at {CROP_SIZE} pixels")
        split = data.prepared(data_dir, other)
        setting = Setting(split.train, split.val, CROP_SIZE, epochs=epochs)
        if quick:
            setting = replace(setting, train_dir=data.with_count(split.train, QUICK_IMAGES, data_dir))
        path.parent.mkdir(exist_ok=True)
        in_fresh_process(partial(train_and_save, setting, path))
    return path


def train_and_save(setting: Setting, path: Path, repetition: int) -> Measurement:
    import torch

    state = fit("torchvision", setting).network.state_dict()
    torch.save({key: tensor for key, tensor in state.items() if not key.startswith("fc.")}, path)
    return {}
