"""Predicts labeled images through the predict path and keeps what the metrics need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mlflow_resnet.errors import BadImagesError, ClassMismatchError, printable
from mlflow_resnet.evaluation import metrics
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import file_source
from mlflow_resnet.model.prediction import Predictor


@dataclass(frozen=True)
class Evaluation:
    """Predictions for labeled images.

    Attributes:
        classes: class names, in the order of the columns of `probabilities`.
        targets: true class indices, int of shape (N,).
        probabilities: float32 of shape (N, len(classes)).
    """

    classes: tuple[str, ...]
    targets: np.ndarray
    probabilities: np.ndarray

    @cached_property
    def headline(self) -> dict[str, float]:
        return metrics.headline_metrics(self.targets, self.probabilities)

    @cached_property
    def averages(self) -> dict[str, float]:
        return metrics.average_metrics(self.targets, self.probabilities)

    @property
    def metrics(self) -> dict[str, float]:
        return self.headline | self.averages

    @cached_property
    def per_class(self) -> pd.DataFrame:
        return metrics.per_class_table(self.targets, self.probabilities, self.classes)

    @property
    def confusion(self) -> np.ndarray:
        return metrics.confusion_counts(self.targets, self.probabilities)


def targets_of(directory: LabeledDirectory, classes: tuple[str, ...], owner: str) -> np.ndarray:
    """Class indices of the directory's images in `classes`, which belong to `owner`. int of shape (N,).

    Raises:
        ClassMismatchError: if the directory has a class folder that `classes` lacks.
    """
    index = {name: i for i, name in enumerate(classes)}
    extra = [name for name in directory.class_names if name not in index]
    if extra:
        raise ClassMismatchError(directory.source, extra, classes, owner)
    targets = {label: index[printable(label)] for label in directory.classes}
    return np.array([targets[label] for label in directory.labels], dtype=np.int64)


def evaluate(predictor: Predictor, directory: LabeledDirectory, batch_size: int = 32) -> Evaluation:
    """Predicts every image of `directory`.

    Raises:
        ClassMismatchError: if it has classes that the predictor lacks.
        BadImagesError: if an image cannot be read; leave such images out before.
    """
    targets = targets_of(directory, predictor.classes, "the model")
    probabilities = np.empty((len(targets), len(predictor.classes)), dtype=np.float32)
    bad = {}
    for i, prediction in enumerate(predictor.predict(map(file_source, directory.paths), batch_size)):
        if prediction.probabilities is None:
            bad[prediction.name] = prediction.error
        else:
            probabilities[i] = prediction.probabilities
    if bad:
        raise BadImagesError(directory.source, bad)
    return Evaluation(predictor.classes, targets, probabilities)
