"""Predicts labeled images through the predict path and computes metrics from the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from mlflow_resnet.errors import BadImagesError, ClassMismatchError, encodable
from mlflow_resnet.evaluation import calibration, metrics
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import file_source
from mlflow_resnet.model.prediction import Predictor

# How metrics of a part of the data begin, by the context of the data; the most honest first.
METRIC_PREFIXES = {"test": "test_", "evaluation": "", "validation": "val_"}


@dataclass(frozen=True)
class Evaluation:
    """Predictions for labeled images."""

    classes: tuple[str, ...]  # in the order of the columns of `probabilities`
    targets: np.ndarray  # true class indices, int of shape (N,)
    probabilities: np.ndarray  # float32 of shape (N, len(classes))
    temperature: float = 1.0  # of the classifier that gave them

    @cached_property
    def headline(self) -> dict[str, float]:
        return metrics.headline_metrics(self.targets, self.probabilities)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics that are cheap enough to be logged in every epoch."""
        return self.headline | metrics.average_metrics(self.targets, self.probabilities)

    @cached_property
    def per_class(self) -> pd.DataFrame:
        return metrics.per_class_table(self.targets, self.probabilities, self.classes)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the headline numbers."""
        return metrics.confidence_intervals(self.targets, self.probabilities)

    @cached_property
    def calibration(self) -> dict[str, float]:
        """`ece`, `brier` and `log_loss`, and the same before temperature scaling."""
        found = {}
        for suffix, each in (("", self), ("_before", self.as_trained)):
            found[f"ece{suffix}"] = calibration.expected_calibration_error(each.targets, each.probabilities)
            found[f"brier{suffix}"] = calibration.brier_score(each.targets, each.probabilities)
            found[f"log_loss{suffix}"] = each.headline["log_loss"]
        return found

    @cached_property
    def risk_coverage(self) -> pd.DataFrame:
        return calibration.risk_coverage(self.targets, self.probabilities)

    @property
    def hits(self) -> np.ndarray:
        """Whether each image's most probable class is the true one. bool of shape (N,)."""
        return self.probabilities.argmax(axis=1) == self.targets

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each image, in nats. float64 of shape (N,)."""
        return -calibration.log_probabilities(self.probabilities)[np.arange(len(self.targets)), self.targets]

    @property
    def details(self) -> dict[str, float]:
        """Numbers beyond `metrics`, grouped by a slash."""
        auc = {"ranking/auc_ovr": float(self.per_class["auc"].mean())}
        ends: dict[str, float] = {}
        for name, (low, high) in self.intervals.items():
            ends |= {f"interval/{name}_low": low, f"interval/{name}_high": high}
        scores = {f"calibration/{name}": value for name, value in self.calibration.items()}
        classes = {f"per_class/{name}": value for name, value in metrics.list_class_metrics(self.per_class).items()}
        found = auc | ends | scores | classes | {"abstention/aurc": calibration.area_under(self.risk_coverage)}
        return {name: value for name, value in found.items() if np.isfinite(value)}

    @cached_property
    def as_trained(self) -> Evaluation:
        """The evaluation without temperature scaling."""
        return self.at_temperature(1.0)

    def at_temperature(self, temperature: float) -> Evaluation:
        """Returns the evaluation of the same classifier with another temperature."""
        probabilities = calibration.apply_temperature(self.probabilities, temperature / self.temperature)
        return replace(self, probabilities=probabilities, temperature=temperature)

    def fit_temperature(self) -> float:
        """The temperature that suits these images best."""
        return calibration.fit_temperature(self.targets, self.as_trained.probabilities)


def prefix_metrics(values: Mapping[str, float], context: str) -> dict[str, float]:
    """Returns metrics under the names of a part of the data, such as `val_log_loss`."""
    return {prefix_metric(metric, context): value for metric, value in values.items()}


def prefix_metric(metric: str, context: str) -> str:
    """Returns a metric's name for a part of the data: `val_loss`, `interval/val_x`; as it is for "evaluation"."""
    group, slash, name = metric.rpartition("/")
    prefix = METRIC_PREFIXES[context]
    return f"{group}{slash}{prefix}{'loss' if prefix and metric == 'log_loss' else name}"


def find_targets(directory: LabeledDirectory, classes: tuple[str, ...], owner: str) -> np.ndarray:
    """Class indices of the directory's images in `classes`, which belong to `owner`. int of shape (N,).

    Raises:
        ClassMismatchError: if the directory has a class folder that `classes` lacks.
    """
    index = {name: i for i, name in enumerate(classes)}
    if extra := [name for name in directory.class_names if name not in index]:
        raise ClassMismatchError(directory.source, extra, classes, owner)
    targets = {label: index[encodable(label)] for label in directory.classes}
    return np.array([targets[label] for label in directory.labels], dtype=np.int64)


def evaluate_directory(
    predictor: Predictor, directory: LabeledDirectory, batch_size: int = 32, called: str = "the model"
) -> Evaluation:
    """Predicts every image of `directory`.

    Args:
        called: what an error calls the model.

    Raises:
        ClassMismatchError: if it has classes that the predictor lacks.
        BadImagesError: if an image cannot be read; leave such images out before.
    """
    targets = find_targets(directory, predictor.classes, called)
    probabilities, bad = np.empty((len(targets), len(predictor.classes)), dtype=np.float32), {}
    for i, prediction in enumerate(predictor.predict(map(file_source, directory.paths), batch_size)):
        if prediction.probabilities is None:
            bad[prediction.name] = prediction.error
        else:
            probabilities[i] = prediction.probabilities
    if bad:
        raise BadImagesError(directory.source, bad)
    return Evaluation(predictor.classes, targets, probabilities, predictor.temperature)
