"""A training in its run: what is recorded before, during and after it."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import mlflow
import torch
from mlflow.entities import Run

from mlflow_resnet._version import __version__
from mlflow_resnet.curation import audit_training
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.preparation import Training
from mlflow_resnet.registry import versions
from mlflow_resnet.resuming import TrainingFolder
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.card import training_card
from mlflow_resnet.tracking.run import log_missing_params


@dataclass(frozen=True)
class TrainResult:
    """What `train` leaves.

    Attributes:
        model_uri: of the logged model, `models:/m-…`.
        version: of `registered_model_name`; empty if the model was not registered.
        metrics: of the best epoch, and of the final evaluation with the prefix `val_`.
    """

    classifier: ImageClassifier
    run_id: str
    model_uri: str
    version: str
    best_epoch: int
    metrics: dict[str, float]


def log_beginning(options: TrainOptions, training: Training, run: Run) -> None:
    """What is known of a training before its first step."""
    decided = {f"recipe.{name}": value for name, value in asdict(training.recipe).items()}
    log_missing_params(run, asdict(options) | decided | environment_params())
    record.log_data(training.train_set, "training")
    mlflow.set_tags({"mlflow_resnet.version": __version__, "mlflow_resnet.start": training.start})
    mlflow.log_dict(dict(training.classifier.training), "training.json")
    record.log_gallery(training.train_images)


def train_in_run(
    options: TrainOptions, training: Training, run: Run, folder: TrainingFolder | None = None
) -> TrainResult:
    """The part of `train` that is recorded, or what is left of it. `folder` is where its checkpoints are."""
    train_set, val_set, start = training.train_set, training.val_set, training.start
    begun_model = folder.model_begun_in(run.info.run_id) if folder else ""
    if not begun_model:
        log_beginning(options, training, run)
        if options.audit:
            audit_training(train_set, val_set)
    with record.pending_model(run, val_set, begun_model) as model:
        if folder:
            folder.note(model_id=model.model_id)
        known = record.logged_epochs(run)
        with contextlib.closing(training.epochs(options, folder.saving if folder else None)) as epochs:
            for result in epochs:
                if result.epoch not in known:
                    record.log_epoch(result, train_set, val_set, model)
                if result.is_best:
                    best = result
        record.log_evaluation(best.evaluation)
        record.log_classifier(training.classifier, model, best.epoch)
    card = training_card(
        options, training.recipe, train_set.directory, val_set.directory, start, best.epoch, best.metrics
    )
    mlflow.set_tag("mlflow.note.content", card)
    version = register(options, model.model_uri, card)
    return TrainResult(training.classifier, run.info.run_id, model.model_uri, version, best.epoch, best.metrics)


def environment_params() -> dict[str, Any]:
    """What besides the options decides the bits of the weights."""
    return {"torch_version": torch.__version__, "torch_threads": torch.get_num_threads()}


def register(options: TrainOptions, model_uri: str, description: str) -> str:
    """Registers the model if a name was given, and returns its version."""
    if not options.registered_model_name:
        return ""
    version = versions.register(model_uri, options.registered_model_name, options.alias)
    mlflow.MlflowClient().update_model_version(version.name, version.version, description)
    return str(version.version)
