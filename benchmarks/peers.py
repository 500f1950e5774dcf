"""The peers' training loop: what torchvision's reference script and timm's train.py both do, by either recipe.

Both validate after each epoch if there is validation data, and keep the best epoch's weights, as timm's script does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recipe import Recipe
from setting import Setting, Trained
from steps import synchronize
from torch import nn


def fit_torchvision(setting: Setting) -> Trained:
    """Trains by torchvision's reference recipe."""
    from torchvision_recipe import torchvision_recipe

    return fit(torchvision_recipe, setting)


def fit_timm(setting: Setting) -> Trained:
    """Trains by timm's default recipe."""
    from timm_recipe import timm_recipe

    return fit(timm_recipe, setting)


def fit(build: Callable[[Setting], Recipe], setting: Setting) -> Trained:
    """Trains by a recipe and leaves the weights of the best validated epoch, or of the last."""
    started = perf_counter()
    seed_everything(setting.seed)
    torch.backends.cudnn.benchmark = True
    recipe = build(setting)
    network = recipe.network.to(setting.device)
    val_loader = recipe.eval_loader(setting.val_dir) if setting.val_dir else None
    seconds, best, weights = [], -1.0, network.state_dict()
    for epoch in range(setting.epochs):
        seconds.append(train_one_epoch(recipe, setting))
        recipe.end_epoch(epoch + 1)
        if val_loader and (val_accuracy := accuracy(val_loader, network, setting.device)) > best:
            best, weights = val_accuracy, {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network.load_state_dict(weights)
    total_seconds = perf_counter() - started

    def score(folder: Path) -> float:
        return accuracy(recipe.eval_loader(folder), network, setting.device)

    return Trained(recipe.epoch_images, seconds, total_seconds, network, score)


def train_one_epoch(recipe: Recipe, setting: Setting) -> float:
    """Trains on every batch once and returns the seconds that took, loading included."""
    started = perf_counter()
    network = recipe.network.train(not setting.linear_probe)  # a frozen body keeps its batch norms' averages
    for batch in recipe.loader:
        images, targets = (tensor.to(setting.device) for tensor in batch)
        output = network(images)
        loss = recipe.criterion(output, targets)
        recipe.optimizer.zero_grad()
        loss.backward()
        recipe.optimizer.step()
        recipe.watch(loss, output, targets)
    synchronize(setting.device)
    return perf_counter() - started


@torch.inference_mode()
def accuracy(loader: Iterable[Any], network: nn.Module, device: str) -> float:
    """Top-1 accuracy, a fraction."""
    network.eval()
    hits = images_seen = 0
    for images, targets in loader:
        predicted = network(images.to(device)).argmax(dim=1)
        hits += int((predicted == targets.to(device)).sum())
        images_seen += len(targets)
    return hits / images_seen


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
