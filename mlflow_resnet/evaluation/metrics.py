"""Numbers from targets and probabilities. scikit-learn computes them; these functions only name them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn import metrics

TOP_K = 5
LOWER_IS_BETTER = frozenset({"log_loss"})


def headline_metrics(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 accuracy and log loss (mean cross-entropy, in nats).

    Args:
        targets: class indices, int of shape (N,).
        probabilities: float of shape (N, C). Top-5 is left out unless C > 5, where it says something.
    """
    number_of_classes = probabilities.shape[1]
    labels = np.arange(number_of_classes)
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    result = {
        "top1_accuracy": float(np.mean(probabilities.argmax(axis=1) == targets)),
        "log_loss": float(metrics.log_loss(targets, probabilities, labels=labels)),
    }
    if number_of_classes > TOP_K:
        result["top5_accuracy"] = float(metrics.top_k_accuracy_score(targets, probabilities, k=TOP_K, labels=labels))
    return result


def average_metrics(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Micro- and macro-averaged precision, recall and F1, as the designer's Evaluate Model gives them, and F1.

    A class without images or without predictions counts as 0 in a macro average, unless it has neither.
    """
    predicted = probabilities.argmax(axis=1)
    result: dict[str, float] = {}
    for average in ("micro", "macro"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        result |= {f"{average}_precision": precision, f"{average}_recall": recall, f"{average}_f1": f1}
    return {name: float(value) for name, value in result.items()}


def per_class_table(targets: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per class: class, precision, recall, f1, support (its number of images)."""
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, probabilities.argmax(axis=1), labels=np.arange(len(classes)), zero_division=0
    )
    return pd.DataFrame(
        {"class": list(classes), "precision": precision, "recall": recall, "f1": f1, "support": support}
    )


def confusion_counts(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """int of shape (C, C): images of class i (row) that were predicted as class j (column)."""
    labels = np.arange(probabilities.shape[1])
    return metrics.confusion_matrix(targets, probabilities.argmax(axis=1), labels=labels)
