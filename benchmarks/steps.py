"""Training steps on one batch that is already in memory: what a network costs when nothing has to be loaded."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

SECONDS = 10.0  # at least this long is measured
QUICK_SECONDS = 0.5


def images_per_second(step: Callable[[], object], batch_size: int, device: str, seconds: float) -> float:
    """Speed of `step`, after a warm-up that also compiles; waits for the device after every step."""
    for _ in range(10 if device == "cuda" else 2):
        step()
    synchronize(device)
    started, steps = perf_counter(), 0
    while perf_counter() - started < seconds or steps < 3:
        step()
        synchronize(device)
        steps += 1
    return steps * batch_size / (perf_counter() - started)


def random_batch(batch_size: int, crop_size: int, num_classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Standard normal images, float32 of shape (N, 3, crop_size, crop_size), and class indices."""
    images = torch.randn(batch_size, 3, crop_size, crop_size, device=device)
    return images, torch.randint(num_classes, (batch_size,), device=device)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
