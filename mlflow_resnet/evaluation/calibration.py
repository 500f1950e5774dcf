"""Confidence: temperature scaling, reliability bins, ECE, Brier score, and what is won by not answering if it is low.

Temperature scaling divides the logits by one number, which never changes their order (Guo et al. 2017, On Calibration
of Modern Neural Networks, https://arxiv.org/abs/1706.04599, §4.2). Confidence is the predicted class's probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15  # of equal width, as in the paper
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # of confidence
TEMPERATURES = (0.1, 10.0)  # beyond them there are too few mistakes, or nothing but mistakes, to learn from


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Natural logarithms in float64; a probability that was rounded to 0 counts as the smallest float32."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny, dtype=np.float64))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Rescales softmax probabilities to those of the same logits divided by `temperature`.

    Args:
        probabilities: float of shape (N, C), each row of which sums to 1.

    Returns:
        float32 of shape (N, C).
    """
    if temperature == 1:
        return probabilities
    return np.exp(log_softmax(log_probabilities(probabilities) / temperature, axis=1)).astype(np.float32)


def fit_temperature(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature with the lowest log loss; 1 if there is no mistake to learn from, or nothing but mistakes.

    Args:
        targets: class indices, int of shape (N,).
        probabilities: float of shape (N, C), of a softmax at temperature 1.
    """
    hits = probabilities.argmax(axis=1) == targets
    if hits.all() or not hits.any():
        return 1.0
    logs, rows = log_probabilities(probabilities), np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        return -log_softmax(logs / np.exp(log_temperature), axis=1)[rows, targets].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def reliability(targets: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The bins of confidence that have images: mean confidence, accuracy and number of images of each."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = pd.DataFrame({"bin": bins, "confidence": confidence, "accuracy": hits.astype(np.float64)})
    means = rows.groupby("bin")[["confidence", "accuracy"]].mean()
    return means.assign(images=rows.groupby("bin").size())


def expected_calibration_error(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance of accuracy and confidence over the bins, weighted by images (Guo et al. 2017, equation 3)."""
    bins = reliability(targets, probabilities)
    return float(np.average((bins["accuracy"] - bins["confidence"]).abs(), weights=bins["images"]))


def brier_score(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over images of the squared distance of the probabilities to the truth, from 0 to 2 (Brier 1950)."""
    distances = probabilities.astype(np.float64)
    distances[np.arange(len(targets)), targets] -= 1
    return float(np.mean((distances**2).sum(axis=1)))


def risk_coverage(targets: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The risk-coverage curve (El-Yaniv and Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html).

    A row for each confidence that a prediction has, from the highest: `min_confidence`; `coverage`, the fraction of
    images with that much or more; and `risk`, the fraction of mistakes among these.
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
