"""An evaluation as tables, figures and galleries: every image with truth and prediction, and those worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mlflow_resnet.errors import InvalidImageError, encodable
from mlflow_resnet.evaluation.calibration import thresholds_table
from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.evaluation.explanations import has_captum, overlays
from mlflow_resnet.evaluation.figures import confidence_figure, confusion_matrix_figure
from mlflow_resnet.evaluation.galleries import gallery
from mlflow_resnet.evaluation.metrics import count_confusions, most_confused
from mlflow_resnet.evaluation.pairing import TRUTH
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import ImageSource, file_source
from mlflow_resnet.model.prediction import IMAGE, PROBABILITY, SCORED_LABELS, Predictor
from mlflow_resnet.model.preprocessing import Preprocessing

PREDICTIONS = "predictions.parquet"
MOST_NOTABLE = 16  # images of each kind
REPORT_TABLES = ("per_class.json", "most_confused.json", "thresholds.json")


def write_evaluation_report(
    folder: Path, evaluation: Evaluation, directory: LabeledDirectory, predictor: Predictor
) -> None:
    """Writes predictions, the tables in `REPORT_TABLES`, figures and galleries of an evaluation of `directory`.

    With captum installed, each gallery is there once more with heat maps of what spoke for the predicted class.
    """
    predictions_table(evaluation, directory.names).to_parquet(folder / PREDICTIONS, index=False)
    thresholds = thresholds_table(evaluation.targets, evaluation.probabilities)
    counts = count_confusions(evaluation.targets, evaluation.probabilities)
    tables = (evaluation.per_class, most_confused(counts, evaluation.classes), thresholds)
    for name, table in zip(REPORT_TABLES, tables, strict=True):
        table.to_json(folder / name, orient="split", index=False)
    confusion_matrix_figure(counts, evaluation.classes).savefig(folder / "confusion_matrix.png")
    confidence_figure(evaluation).savefig(folder / "confidence.png")
    for name, indices in worth_a_look(evaluation).items():
        sources = [file_source(directory.paths[index]) for index in indices]
        pictures = np.stack([picture(predictor.preprocessing, source) for source in sources])
        gallery(evaluation, indices, directory.names, pictures).save(folder / f"{name}.png")
        if has_captum():
            explained = overlays(predictor, torch.from_numpy(pictures).permute(0, 3, 1, 2))
            gallery(evaluation, indices, directory.names, explained).save(folder / f"{name}_explained.png")


def picture(preprocessing: Preprocessing, source: ImageSource) -> np.ndarray:
    """Returns the preprocessed image, uint8 of shape (H, W, 3); gray if it cannot be read any more."""
    try:
        return preprocessing.prepare(source.read())
    except InvalidImageError:
        size = preprocessing.image_size
        return np.full((size, size, 3), 128, np.uint8)


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
            "loss": evaluation.losses,
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
