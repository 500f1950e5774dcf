"""What a training or an evaluation leaves in its run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_resnet import flavor
from mlflow_resnet.evaluation.evaluate import Evaluation
from mlflow_resnet.evaluation.figures import confusion_matrix_figure, image_grid
from mlflow_resnet.images.audit.findings import AuditedImage, Finding
from mlflow_resnet.images.audit.report import write_report
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.run import SIGNALS
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.data import TrainingImages

GALLERY_IMAGES = 16
MODEL_NAME = "model"


def log_gallery(train: TrainingImages) -> None:
    """A few training images as the network sees them in the first epoch."""
    indices = np.linspace(0, len(train) - 1, min(len(train), GALLERY_IMAGES)).astype(int)
    mlflow.log_image(image_grid([train.load(epoch=1, index=index) for index in indices]), "training_images.png")


def log_data(data: ImageDirectoryDataset, context: str, model: LoggedModelInput | None = None) -> None:
    """The images as an input of the run; if they are in S3, also which objects they were, to find the same again."""
    mlflow.log_input(data, context=context, model=model)
    if data.directory.objects:
        manifest = pd.DataFrame([asdict(each) for each in data.directory.objects])
        mlflow.log_text(manifest[["key", "size", "etag"]].to_csv(index=False), f"manifests/{context}.csv")


def log_audit(images: Sequence[AuditedImage], found: Sequence[Finding]) -> None:
    """The report, the table of facts, and how many images have each kind of finding."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder), images, found)
        mlflow.log_artifacts(folder, "audit")
    mlflow.log_metrics({f"audit_{finding.kind}": finding.images for finding in found})


@contextlib.contextmanager
def pending_model(run: Run, val: ImageDirectoryDataset, model_id: str = "") -> Iterator[LoggedModel]:
    """A logged model without files yet, to which metrics can be tied. It ends FAILED if training does.

    MLflow ties a metric to a model and a dataset only at the moment when the metric is logged.

    Args:
        model_id: of one that an interrupted training has begun.
    """
    client = MlflowClient()
    if model_id:
        model = client.get_logged_model(model_id)
    else:
        params = client.get_run(run.info.run_id).data.params
        model = mlflow.initialize_logged_model(MODEL_NAME, params=params, model_type="image-classifier")
        log_data(val, "validation", LoggedModelInput(model.model_id))
    try:
        yield model
    except SIGNALS:  # the same command goes on with it
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to report
            mlflow.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise


def logged_epochs(run: Run) -> set[int]:
    """The epochs whose metrics the run has."""
    return {metric.step for metric in MlflowClient().get_metric_history(run.info.run_id, "val_loss")}


def log_epoch(
    result: EpochResult, train: ImageDirectoryDataset, val: ImageDirectoryDataset, model: LoggedModel | None
) -> None:
    """The epoch's metrics at its step, tied to their data; those of a best epoch to the model too, if there is one."""
    model_id = model.model_id if model and result.is_best else None
    of_val = {name: value for name, value in result.metrics.items() if name.startswith("val_")}
    of_train = {name: value for name, value in result.metrics.items() if name not in of_val}
    log = partial(mlflow.log_metrics, step=result.epoch, timestamp=result.timestamp, model_id=model_id)
    log(of_train, dataset=train)
    log(of_val, dataset=val)  # the last, because `logged_epochs` looks for them


def log_evaluation(evaluation: Evaluation) -> None:
    """The confusion matrix as a figure and the per-class table."""
    mlflow.log_figure(confusion_matrix_figure(evaluation.confusion, evaluation.classes), "confusion_matrix.png")
    mlflow.log_table(evaluation.per_class, "per_class.json")


def known_model_id(model_uri: str) -> str | None:
    """The id of a logged model, to tie metrics to; None if it was saved elsewhere than on this tracking server."""
    model_id = flavor.read_mlmodel(model_uri).model_id
    try:
        return MlflowClient().get_logged_model(model_id).model_id if model_id else None
    except MlflowException:
        return None


def log_classifier(classifier: ImageClassifier, model: LoggedModel, best_epoch: int) -> None:
    """Uploads the files of the pending model and makes it an output of the run.

    `flavor.log_model` would create a model of its own, or copy the run's system metrics to this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_NAME
        description = Model(model.artifact_location, model.source_run_id, model_id=model.model_id)
        flavor.save_model(classifier, path, mlflow_model=description)
        MlflowClient().log_model_artifacts(model.model_id, str(path))
    mlflow.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    mlflow.log_outputs([LoggedModelOutput(model.model_id, best_epoch)])
