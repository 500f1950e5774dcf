"""Pictures of an evaluation, of training images and of a learning rate test, as matplotlib figures and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from mlflow_resnet.errors import printable
from mlflow_resnet.evaluation.calibration import BINS, reliability
from mlflow_resnet.evaluation.evaluation import Evaluation

MAX_ANNOTATED_CLASSES = 30  # above this the numbers in the cells are too small to read
MAX_INCHES, MIN_FONT_SIZE, MAX_FONT_SIZE = 24, 6, 10
POINTS_PER_INCH = 72
BLUE, VERMILION = "#0072b2", "#d55e00"  # the color-blind tell them apart (Okabe and Ito 2008)


def confusion_matrix_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Rows are true classes, columns predicted ones; colors are row fractions, numbers are images.

    With more than 30 classes there are no numbers, and where names have no room, only every so many is written.

    Args:
        counts: int of shape (C, C).
    """
    size = min(4 + 0.35 * len(classes), MAX_INCHES)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    points = 0.7 * size * POINTS_PER_INCH / len(classes)  # the room for the name of each class
    font_size = min(max(points, MIN_FONT_SIZE), MAX_FONT_SIZE)
    some = range(0, len(classes), ceil(font_size / points))
    texts = [printable(classes[index]) for index in some]
    names = [text if len(text) <= 24 else f"{text[:12]}…{text[-11:]}" for text in texts]
    rotation = 0 if max(map(len, names)) <= 3 and len(classes) <= MAX_ANNOTATED_CLASSES else 90
    axes.set_xticks(some, names, rotation=rotation, fontsize=font_size, parse_math=False)
    axes.set_yticks(some, names, fontsize=font_size, parse_math=False)
    if len(classes) <= MAX_ANNOTATED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color)
    return figure


def confidence_figure(evaluation: Evaluation) -> Figure:
    """Draws the reliability diagram before and after temperature scaling, and the risk-coverage curve.

    Below each pair of points of the diagram is how many images they stand for.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplot_mosaic([["reliability", "risk"], ["images", "risk"]], height_ratios=[5, 2])
    upper, lower, right = (panels[name] for name in ("reliability", "images", "risk"))
    upper.plot([0, 1], [0, 1], color="gray", linestyle=":", label="as it should be")
    errors = evaluation.calibration
    stages = {
        "as trained": (evaluation.as_trained, errors["ece_before"], VERMILION, "s"),
        "calibrated": (evaluation, errors["ece"], BLUE, "o"),
    }
    for number, (name, (stage, error, color, marker)) in enumerate(stages.items()):
        bins = reliability(stage.targets, stage.probabilities)
        label = f"{name}: temperature {stage.temperature:.2f}, ECE {error:.3f}"
        upper.plot(bins["confidence"], bins["accuracy"], color=color, marker=marker, label=label)
        places = (bins.index + 0.3 + 0.4 * number) / BINS
        bars = lower.bar(places, bins["images"], width=0.4 / BINS, color=color)
        lower.bar_label(bars, rotation=90, fontsize=MIN_FONT_SIZE + 1, padding=2)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title="Reliability")
    upper.tick_params(labelbottom=False)
    lower.set(xlabel="confidence", ylabel="images", xlim=(0, 1), yscale="log", ylim=(0.5, 20 * lower.dataLim.y1**1.3))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    curve = evaluation.risk_coverage
    right.plot(curve["coverage"], curve["risk"], color=BLUE)
    right.set(xlabel="fraction of images answered", ylabel="fraction of mistakes among them", xlim=(0, 1))
    right.set(ylim=(0, None), title="Risk and coverage, the most confident images first")
    return figure


def image_grid(images: Sequence[Tensor]) -> np.ndarray:
    """uint8 images of shape (3, H, W) side by side on white, as uint8 of shape (height, width, 3)."""
    return make_grid(torch.stack(list(images)), nrow=8, pad_value=255).permute(1, 2, 0).numpy()


def learning_rate_figure(points: pd.DataFrame, suggested: dict[str, float]) -> Figure:
    """Loss over learning rate, as measured and smoothed, with a line at each suggested rate.

    Args:
        points: columns learning_rate, loss, smoothed_loss.
        suggested: rate by name; the first is drawn solid.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    rates, losses, smoothed = points["learning_rate"], points["loss"], points["smoothed_loss"]
    axes.plot(rates, losses, color="lightgray", label="loss of each batch")
    axes.plot(rates, smoothed, color="tab:blue", label="smoothed loss")
    for index, (name, rate) in enumerate(suggested.items()):
        axes.axvline(rate, color="tab:red", linestyle=":" if index else "-", label=f"{name}: {rate:.2g}")
    lowest = min(losses.min(), smoothed.min())
    highest = max(1.5 * smoothed[0], losses[: len(losses) // 2].max())  # without how far the loss rises at the end
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.set(ylim=(lowest - 0.05 * abs(lowest), highest))
    axes.legend()
    return figure
