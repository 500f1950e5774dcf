"""Pictures of an evaluation, of training images and of a learning rate test, as matplotlib figures and arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

MAX_ANNOTATED_CLASSES = 30  # above this the numbers in the cells are too small to read


def confusion_matrix_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Rows are true classes, columns predicted ones; colors are row fractions, numbers are images.

    Args:
        counts: int of shape (C, C).
    """
    size = min(4 + 0.35 * len(classes), 24)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= MAX_ANNOTATED_CLASSES:
        label_axes(axes, classes)
        annotate(axes, counts, fractions)
    return figure


def label_axes(axes: Axes, classes: Sequence[str]) -> None:
    rotation = 0 if max(map(len, classes)) <= 3 else 90
    axes.set_xticks(range(len(classes)), classes, rotation=rotation)
    axes.set_yticks(range(len(classes)), classes)


def annotate(axes: Axes, counts: np.ndarray, fractions: np.ndarray) -> None:
    for row, column in np.argwhere(counts > 0):
        color = "white" if fractions[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=color)


def image_grid(images: Sequence[Tensor], columns: int = 8) -> np.ndarray:
    """uint8 images of shape (3, H, W) side by side on white, as uint8 of shape (height, width, 3)."""
    return make_grid(torch.stack(list(images)), nrow=columns, pad_value=255).permute(1, 2, 0).numpy()


def learning_rate_figure(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggested: dict[str, float]
) -> Figure:
    """Loss over learning rate, as measured and smoothed, with a line at each suggested rate.

    Args:
        suggested: rate by name; the first is drawn solid.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="lightgray", label="loss of each batch")
    axes.plot(rates, smoothed, color="tab:blue", label="smoothed loss")
    for index, (name, rate) in enumerate(suggested.items()):
        axes.axvline(rate, color="tab:red", linestyle=":" if index else "-", label=f"{name}: {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=visible(losses, smoothed))
    axes.legend()
    return figure


def visible(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Limits of the loss that leave out how far it rises at the end."""
    lowest = min(*losses, *smoothed)
    return lowest - 0.05 * abs(lowest), max(1.5 * smoothed[0], max(losses[: len(losses) // 2]))
