"""Predictions as a table, and a choice of images to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlflow_resnet.errors import encodable
from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.model.prediction import IMAGE, PROBABILITY, SCORED_LABELS

TRUTH, LOSS = "label", "loss"
MOST_NOTABLE = 16  # images of each kind


def predictions_table(evaluation: Evaluation, names: Sequence[str]) -> pd.DataFrame:
    """Columns image, label, Scored Labels, Scored Probabilities_<class>, loss (cross-entropy in nats).

    Args:
        names: of the images, in the order of the evaluation.
    """
    classes = np.array(evaluation.classes, dtype=object)
    probabilities = {
        PROBABILITY + name: column for name, column in zip(classes, evaluation.probabilities.T, strict=True)
    }
    return pd.DataFrame(
        {
            IMAGE: [encodable(name) for name in names],
            TRUTH: classes[evaluation.targets],
            SCORED_LABELS: classes[evaluation.probabilities.argmax(axis=1)],
            **probabilities,
            LOSS: evaluation.losses,
        }
    )


def worth_a_look(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Returns indices of notable images by kind, most notable first; kinds without images are left out.

    top_losses are the images whose true class has the lowest probability: hard ones, or wrong labels.
    confident_mistakes are wrong predictions with the highest confidence.
    unsure_hits are right predictions with the lowest confidence.
    """
    confidence = evaluation.probabilities.max(axis=1)
    hits = evaluation.hits
    by_confidence = np.argsort(confidence, kind="stable")
    found = {
        "top_losses": np.argsort(-evaluation.losses, kind="stable"),
        "confident_mistakes": by_confidence[::-1][~hits[by_confidence[::-1]]],
        "unsure_hits": by_confidence[hits[by_confidence]],
    }
    return {name: indices[:MOST_NOTABLE] for name, indices in found.items() if len(indices)}
