"""Paired comparison of two models' predictions of the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlflow_resnet.evaluation.mcnemar import mcnemar
from mlflow_resnet.model.prediction import IMAGE, SCORED_LABELS

TRUTH = "label"  # a column of the true classes


@dataclass(frozen=True)
class Pairing:
    """Numbers of images by which of two models labels them correctly. `p_value` is that of McNemar's test in its
    exact form."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def images(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first, a fraction."""
        return (self.only_second - self.only_first) / self.images

    @property
    def p_value(self) -> float:
        return mcnemar(self.only_first, self.only_second)


def compare_predictions(first: pd.DataFrame, second: pd.DataFrame) -> Pairing:
    """Compares two tables of predictions of the same images, in any order.

    Raises:
        ValueError: if the images or their classes are not the same.
    """
    both = first.merge(second, on=[IMAGE, TRUTH], suffixes=("", " of the second"), validate="one_to_one")
    if not len(both) == len(first) == len(second):
        raise ValueError(f"{len(both)} of {len(first)} and {len(second)} images are the same")
    return compare_hits(both[SCORED_LABELS] == both[TRUTH], both[f"{SCORED_LABELS} of the second"] == both[TRUTH])


def compare_hits(first: np.ndarray | pd.Series, second: np.ndarray | pd.Series) -> Pairing:
    """Compares two models by their hits, bool of shape (N,), in the same order of images."""
    return Pairing(*(int(hits.sum()) for hits in (first & second, first & ~second, ~first & second, ~first & ~second)))
