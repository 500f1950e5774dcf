"""Confidence intervals of the headline metrics."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.stats import binomtest

from mlflow_resnet.evaluation.metrics import TOP_K, normalize_rows

LEVEL = 0.95
RESAMPLES = 1000
Interval = tuple[float, float]


def confidence_intervals(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, Interval]:
    """95 % intervals of the headline numbers: (low, high) by name.

    Accuracies have Wilson's interval of a proportion, because no resample of images that are all predicted rightly has
    a mistake; the others the percentiles of the bootstrap (Efron and Tibshirani 1993, chapter 13).

    Args:
        targets: class indices, int of shape (N,).
        probabilities: float of shape (N, C).
    """
    number_of_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    result = {"top1_accuracy": wilson(predicted == targets)}
    if number_of_classes > TOP_K:
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
        result["top5_accuracy"] = wilson((best == targets[:, None]).any(axis=1))
    losses = -np.log(np.maximum(normalize_rows(probabilities)[np.arange(len(targets)), targets], np.finfo(float).tiny))

    def statistics(chosen: np.ndarray) -> tuple[float, float, float]:
        support, times_predicted, hits = (
            np.bincount(values, minlength=number_of_classes)
            for values in (targets[chosen], predicted[chosen], targets[chosen][(targets == predicted)[chosen]])
        )
        exists = support + times_predicted > 0
        f1 = 2 * hits[exists] / (support + times_predicted)[exists]
        recall = hits[support > 0] / support[support > 0]
        return losses[chosen].mean(), f1.mean(), recall.mean()

    random, images = np.random.default_rng(0), len(targets)
    # Several statistics of the same resamples; scipy's bootstrap takes one statistic at a time.
    values = np.array([statistics(random.integers(0, images, images)) for _ in range(RESAMPLES)])
    ends = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    names = ("log_loss", "macro_f1", "balanced_accuracy")
    return result | {name: (float(low), float(high)) for name, low, high in zip(names, *ends, strict=True)}


def wilson(hits: np.ndarray) -> Interval:
    """The interval of a proportion (Wilson 1927)."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def format_interval(interval: Iterable[float | None]) -> str:
    """A 95 % interval in brackets; empty if there is none."""
    known = [f"{bound:.4f}" for bound in interval if bound is not None]
    return f" [{', '.join(known)}]" if known else ""
