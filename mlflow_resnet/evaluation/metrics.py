"""Numbers from targets and probabilities, which scikit-learn computes, and how far they could be off."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import metrics

TOP_K = 5
LEVEL = 0.95
RESAMPLES = 1000
MANY_CLASSES = 20
NOT_IN_A_METRIC_NAME = re.compile(r"[^\w.\- ]")
MOST_CHARACTERS = 200  # of MLflow's 250


def headline_metrics(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 accuracy and log loss (mean cross-entropy, in nats).

    Args:
        targets: class indices, int of shape (N,).
        probabilities: float of shape (N, C). Top-5 is left out unless C > 5, where it says something.
    """
    number_of_classes = probabilities.shape[1]
    labels = np.arange(number_of_classes)
    probabilities = normalize_rows(probabilities)
    result = {
        "top1_accuracy": float(np.mean(probabilities.argmax(axis=1) == targets)),
        "log_loss": float(metrics.log_loss(targets, probabilities, labels=labels)),
    }
    if number_of_classes > TOP_K:
        result["top5_accuracy"] = float(metrics.top_k_accuracy_score(targets, probabilities, k=TOP_K, labels=labels))
    return result


def normalize_rows(probabilities: np.ndarray) -> np.ndarray:
    """float64 rows that sum to 1, as scikit-learn wants them."""
    probabilities = probabilities.astype(np.float64)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def average_metrics(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Averages over classes: micro, macro and weighted precision, recall and F1, and balanced accuracy.

    The designer's Evaluate Model has micro and macro precision and recall. A class without images or without
    predictions counts as 0 in a macro average, unless it has neither. Balanced accuracy is the mean recall of the
    classes that have images.
    """
    predicted = probabilities.argmax(axis=1)
    present = np.unique(targets)
    recall = metrics.recall_score(targets, predicted, labels=present, average="macro", zero_division=0)
    result: dict[str, float] = {"balanced_accuracy": recall}
    for average in ("micro", "macro", "weighted"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        result |= {f"{average}_precision": precision, f"{average}_recall": recall, f"{average}_f1": f1}
    return {name: float(value) for name, value in result.items()}


def per_class_table(targets: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per class: class, precision, recall, f1, auc (against the rest), support (its number of images).

    `auc` is NaN for a class without images, and for one that has all of them.
    """
    areas = np.full(len(classes), np.nan)
    present = np.unique(targets)
    for label in present if len(present) > 1 else ():
        areas[label] = metrics.roc_auc_score(targets == label, probabilities[:, label])
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, probabilities.argmax(axis=1), labels=np.arange(len(classes)), zero_division=0
    )
    return pd.DataFrame(
        {"class": list(classes), "precision": precision, "recall": recall, "f1": f1, "auc": areas, "support": support}
    )


def list_class_metrics(table: pd.DataFrame) -> dict[str, float]:
    """`precision_<class>` and `recall_<class>` of `per_class_table`, in characters that MLflow takes.

    Empty with more than `MANY_CLASSES`, which would drown the other numbers, or if two names become the same.
    """
    names = [NOT_IN_A_METRIC_NAME.sub("_", name)[:MOST_CHARACTERS] for name in table["class"]]
    if len(names) > MANY_CLASSES or len(set(names)) < len(names):
        return {}
    return {
        f"{column}_{name}": value
        for column in ("precision", "recall")
        for name, value in zip(names, table[column], strict=True)
    }


def count_confusions(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """int of shape (C, C): images of class i (row) that were predicted as class j (column)."""
    labels = np.arange(probabilities.shape[1])
    return metrics.confusion_matrix(targets, probabilities.argmax(axis=1), labels=labels)


def most_confused(counts: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """The 50 pairs of classes with the most mistakes: true, predicted, images, and their fraction of the true class."""
    mistakes = counts * (1 - np.eye(len(classes), dtype=counts.dtype))
    order = np.argsort(-mistakes, axis=None, kind="stable")[: min(50, np.count_nonzero(mistakes))]
    true, predicted = np.unravel_index(order, counts.shape)
    names = np.array(classes, dtype=object)
    images = counts[true, predicted]
    fraction = images / np.maximum(counts.sum(axis=1)[true], 1)
    return pd.DataFrame({"true": names[true], "predicted": names[predicted], "images": images, "fraction": fraction})


def confidence_intervals(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, tuple[float, float]]:
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


def wilson(hits: np.ndarray) -> tuple[float, float]:
    """The interval of a proportion (Wilson 1927)."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def format_interval(interval: Iterable[float | None]) -> str:
    """A 95 % interval in brackets; empty if there is none."""
    known = [f"{bound:.4f}" for bound in interval if bound is not None]
    return f" [{', '.join(known)}]" if known else ""
