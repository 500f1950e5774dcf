"""Selective prediction: accuracy and coverage when uncertain images are not answered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def risk_coverage(targets: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The risk-coverage curve (El-Yaniv and Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html).

    A row for each confidence that a prediction has, from the highest: `min_confidence`; `coverage`, the fraction of
    images with that much or more; and `risk`, the fraction of mistakes among these. Confidence is the probability of
    the predicted class.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    mistakes = np.cumsum((probabilities.argmax(axis=1) != targets)[order])
    images = np.arange(1, len(targets) + 1)
    is_last = np.append(np.diff(confidence[order]) != 0, True)  # of those with the same confidence
    curve = {"min_confidence": confidence[order], "coverage": images / len(targets), "risk": mistakes / images}
    return pd.DataFrame(curve)[is_last].reset_index(drop=True)


def area_under(curve: pd.DataFrame) -> float:
    """Mean risk over all coverages; 0 is perfect (AURC, Geifman et al. 2019, https://arxiv.org/abs/1805.08206)."""
    return float(np.average(curve["risk"], weights=np.diff(curve["coverage"], prepend=0)))


def thresholds_table(
    targets: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Returns, for each `min_confidence`, the fraction of images that are answered and the accuracy on these."""
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    answered = [confidence >= threshold for threshold in thresholds]
    accuracies = [float(hits[kept].mean()) if kept.any() else None for kept in answered]
    coverages = [float(kept.mean()) for kept in answered]
    return pd.DataFrame({"min_confidence": list(thresholds), "answered": coverages, "accuracy": accuracies})
