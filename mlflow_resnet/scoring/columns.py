"""The columns of scored data: the designer's, exactly, and `image` and `error`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlflow_resnet.model.prediction import IMAGE, PROBABILITY, SCORED_LABELS, Prediction

EXPLANATION = "explanation"  # only if asked for: a PNG in base64
ERROR = "error"
Column = list[Any] | np.ndarray  # texts, or None, or float64 of shape (rows,)
Columns = dict[str, Column]  # by name, in their order


def probability_columns(classes: Sequence[str], top_k: int = 0) -> list[str]:
    """Columns between the label and the error: one per class, or for `top_k` > 0 a label and a probability per rank."""
    if top_k == 0:
        return [PROBABILITY + name for name in classes]
    ranks = range(1, min(top_k, len(classes)) + 1)
    return [column for rank in ranks for column in (f"Top {rank} Label", f"Top {rank} Probability")]


def text_columns(columns: Sequence[str]) -> set[str]:
    """Returns the columns of a scored frame that hold text; the others hold probabilities."""
    return {name for name in columns if not name.startswith(PROBABILITY) and not name.endswith(" Probability")}


def build_scored_columns(
    predictions: Sequence[Prediction], classes: Sequence[str], top_k: int = 0, min_confidence: float = 0.0
) -> Columns:
    """One row per prediction: image, Scored Labels, the probabilities and error.

    Of an image that could not be read the label is missing (None), the probabilities are NaN and `error` says why. If
    no class has a probability of `min_confidence` or more, only the label is missing, and `error` says so.
    """
    unread = np.full(len(classes), np.nan)
    rows = [unread if p.probabilities is None else p.probabilities for p in predictions]
    probabilities = np.array(rows, dtype=np.float64).reshape(len(predictions), len(classes))
    readable = ~np.isnan(probabilities).any(axis=1, keepdims=True)
    names = np.array(classes, dtype=object)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : max(top_k, 1)]
    ranked = np.where(readable, names[order], np.array(None))
    confidence = probabilities.max(axis=1)
    unsure = confidence < min_confidence  # never where it is NaN
    labels = np.where(unsure, np.array(None), ranked[:, 0])
    errors = [
        f"no class has min_confidence {min_confidence:g}; the highest is {value:.4f}" if is_unsure else p.error
        for p, is_unsure, value in zip(predictions, unsure, confidence, strict=True)
    ]
    columns: Columns = {IMAGE: [p.name for p in predictions], SCORED_LABELS: labels.tolist()}
    if top_k == 0:
        columns |= dict(zip(probability_columns(classes), probabilities.T, strict=True))
    else:
        best = np.take_along_axis(probabilities, order, axis=1)
        pairs = [values for rank in range(order.shape[1]) for values in (ranked[:, rank].tolist(), best[:, rank])]
        columns |= dict(zip(probability_columns(classes, top_k), pairs, strict=True))
    return columns | {ERROR: errors}


def build_scored_frame(
    predictions: Sequence[Prediction], classes: Sequence[str], top_k: int = 0, min_confidence: float = 0.0
) -> pd.DataFrame:
    """`build_scored_columns` as a table."""
    return as_frame(build_scored_columns(predictions, classes, top_k, min_confidence))


def as_frame(columns: Columns) -> pd.DataFrame:
    """Texts are Python strings, or None, whatever type pandas has for them."""
    return pd.DataFrame({name: as_objects(values) for name, values in columns.items()})


def as_objects(values: Column) -> pd.Series | np.ndarray:
    return values if isinstance(values, np.ndarray) else pd.Series(values, dtype=object)


def as_list(column: Column) -> list[Any]:
    """What is missing is None, among numbers too."""
    if isinstance(column, np.ndarray):
        return [None if value != value else value for value in column.tolist()]  # only NaN is not what it is
    return column


def fill_missing(frame: pd.DataFrame, keep_nan: bool = False) -> pd.DataFrame:
    """Returns a scored frame whose missing texts are empty and whose missing numbers are None, or NaN if they are kept.

    Few servers' encoders take None among texts, and few take NaN: it is no JSON.
    """
    filled, text = frame.copy(), text_columns(frame.columns)
    for name, column in frame.items():
        if name in text:
            filled[name] = column.where(column.notna(), "")
        elif not keep_nan:
            filled[name] = column.astype(object).where(column.notna(), None)
    return filled
