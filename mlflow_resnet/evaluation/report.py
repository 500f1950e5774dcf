"""An evaluation as files that a person reads and other programs take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.evaluation import abstention
from mlflow_resnet.evaluation.evaluate import Evaluation
from mlflow_resnet.evaluation.figures import confidence_figure, confusion_matrix_figure
from mlflow_resnet.evaluation.galleries import gallery
from mlflow_resnet.evaluation.metrics import most_confused
from mlflow_resnet.evaluation.predictions import predictions_table, worth_a_look
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import file_source
from mlflow_resnet.model.classifier import ImageClassifier

PREDICTIONS = "predictions.parquet"
TABLES = ("per_class.json", "most_confused.json", "thresholds.json")


def write_report(
    folder: Path, evaluation: Evaluation, directory: LabeledDirectory, classifier: ImageClassifier
) -> None:
    """Writes predictions, tables (as `TABLES` names them), figures and galleries of an evaluation of `directory`."""
    predictions_table(evaluation, directory.names).to_parquet(folder / PREDICTIONS, index=False)
    thresholds = abstention.thresholds_table(evaluation.targets, evaluation.probabilities)
    tables = (evaluation.per_class, most_confused(evaluation.confusion, evaluation.classes), thresholds)
    for name, table in zip(TABLES, tables, strict=True):
        table.to_json(folder / name, orient="split", index=False)
    confusion_matrix_figure(evaluation.confusion, evaluation.classes).savefig(folder / "confusion_matrix.png")
    confidence_figure(evaluation).savefig(folder / "confidence.png")
    for name, indices in worth_a_look(evaluation).items():
        pictures = np.stack([picture(classifier, directory.paths[index]) for index in indices])
        gallery(evaluation, indices, directory.names, pictures).save(folder / f"{name}.png")


def picture(classifier: ImageClassifier, path: str) -> np.ndarray:
    """What the network sees of an image, uint8 of shape (H, W, 3); gray if it cannot be read any more."""
    try:
        return classifier.preprocessing.prepare(file_source(path).read())
    except InvalidImageError:
        size = classifier.preprocessing.image_size
        return np.full((size, size, 3), 128, np.uint8)
