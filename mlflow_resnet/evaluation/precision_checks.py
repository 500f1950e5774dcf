"""Checks whether a faster form of a network may replace the one in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.images.directories import LabeledDirectory, spread_evenly
from mlflow_resnet.images.sources import file_source
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.precision import PrecisionCheck, has_native_bf16
from mlflow_resnet.model.prediction import Predictor

MOST_IMAGES = 1000


def precision_checks(
    classifier: ImageClassifier, fp32: Evaluation, directory: LabeledDirectory, device: str, num_workers: int
) -> dict[str, PrecisionCheck]:
    """Compares bf16 with fp32 on at most `MOST_IMAGES` images, evenly spread; nothing where hardware has no bf16.

    Args:
        fp32: what the classifier predicts for the images of `directory` in fp32.
    """
    if not has_native_bf16(pick_device(device)):
        return {}
    predictor = Predictor(classifier, device, num_workers, "bf16")
    chosen = spread_evenly(len(directory), MOST_IMAGES)
    found = list(predictor.predict(file_source(directory.paths[index]) for index in chosen))
    readable = np.array([prediction.probabilities is not None for prediction in found])
    labels = np.array([each.probabilities.argmax() for each in found if each.probabilities is not None], dtype=int)
    if not len(labels):
        return {"bf16": PrecisionCheck(0, 0.0, 0.0)}
    targets = fp32.targets[chosen][readable]
    before = fp32.probabilities[chosen][readable].argmax(axis=1)
    change = np.mean(labels == targets) - np.mean(before == targets)
    return {"bf16": PrecisionCheck(len(labels), float(np.mean(labels == before)), float(change))}


def check_metrics(checks: Mapping[str, PrecisionCheck]) -> dict[str, float]:
    """Checks as metrics of a run, such as `precision/bf16_label_agreement`."""
    return {f"precision/{name}_{key}": value for name, check in checks.items() for key, value in asdict(check).items()}
