"""Logs trainings and evaluations to their runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from mlflow_resnet import flavor
from mlflow_resnet.errors import OutputError
from mlflow_resnet.evaluation import report
from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.evaluation.figures import image_grid
from mlflow_resnet.images.audit.audit_report import write_audit_report
from mlflow_resnet.images.audit.findings import AuditedImage, Finding
from mlflow_resnet.images.directories import spread_evenly
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.text.spreadsheets import write_csv
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.tracking import pieces
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.run import SIGNAL_ERRORS
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.input.labeled_images import TrainingImages

EVALUATION = "evaluation"  # the context of the data, and the folder of the report
GALLERY_IMAGES = 16


class Recorder:
    """Delivers each piece at once. `ids` are those of the run and what belongs to it."""

    def __init__(self, ids: Notes) -> None:
        self.ids = ids

    def put(self, piece: pieces.Piece, write: Callable[[Path], object] | None = None) -> None:
        """Records a piece, as it would come back from a disk; `write` puts its files into an empty folder."""
        with tempfile.TemporaryDirectory() as folder:
            if write:
                write(Path(folder))
            pieces.parse_piece(piece.to_json()).send(MlflowClient(), Path(folder), self.ids)


def make_recorder(run: Run) -> Recorder:
    """Returns a recorder that writes to a run of this process."""
    return Recorder(Notes(run_id=run.info.run_id))


def log_gallery(recorder: Recorder, train: TrainingImages) -> None:
    """A few training images as the network sees them in the first epoch."""
    indices = spread_evenly(len(train), GALLERY_IMAGES)
    grid = image_grid([train.load(epoch=1, index=index) for index in indices])
    log_files(recorder, lambda folder: Image.fromarray(grid).save(folder / "training_images.png"))


def log_files(
    recorder: Recorder, write: Callable[[Path], object], folder: str = "", tables: Sequence[str] = ()
) -> None:
    """Logs what `write` puts into an empty folder as artifacts in `folder`. MLflow's UI shows `tables` as tables."""
    recorder.put(pieces.FilesPiece(folder=folder, tables=list(tables)), write)


def log_params(recorder: Recorder, params: Mapping[str, Any]) -> None:
    """The params that the run lacks."""
    recorder.put(pieces.ParamsPiece(params={name: str(value) for name, value in params.items()}))


def log_tags(recorder: Recorder, tags: Mapping[str, str]) -> None:
    recorder.put(pieces.TagsPiece(tags=dict(tags)))


def log_metrics(
    recorder: Recorder,
    values: Mapping[str, float],
    data: ImageDirectoryDataset | None = None,
    of_model: bool = False,
    timestamp: int = 0,
) -> None:
    """Metrics tied to the images that they are of, and to the model if they are of the one that is kept.

    Args:
        timestamp: the same for the same numbers, if they may be logged twice; 0: now.
    """
    recorder.put(pieces.MetricsPiece(points=[make_point(values, 0, timestamp or pieces.now(), data, of_model)]))


def make_point(
    values: Mapping[str, float], step: int, time: int, data: ImageDirectoryDataset | None = None, of_model: bool = False
) -> pieces.Point:
    return pieces.Point(dict(values), step, time, [data.name, data.digest] if data else None, of_model)


def log_data(recorder: Recorder, data: ImageDirectoryDataset, context: str, of_model: bool = False) -> None:
    """Logs the images as an input of the run; for S3 also the versions of the objects."""
    recorder.put(pieces.InputPiece(dataset=data.to_dict(), context=context, of_model=of_model))
    if data.directory.objects:
        table = pd.DataFrame([asdict(each) for each in data.directory.objects])[["key", "size", "etag"]]
        log_files(recorder, lambda folder: write_csv(table, folder / f"{context}.csv"), "manifests")


def log_audit(recorder: Recorder, images: Sequence[AuditedImage], found: Sequence[Finding]) -> None:
    """The report, the table of facts, and how many images have each kind of finding."""
    log_files(recorder, lambda folder: write_audit_report(folder, images, found), "audit")
    log_metrics(recorder, {f"audit_{finding.kind}": finding.images for finding in found})


def begin_model(recorder: Recorder, val: ImageDirectoryDataset) -> None:
    """A logged model without files yet."""
    recorder.put(pieces.ModelPiece())
    log_data(recorder, val, "validation", of_model=True)


@contextlib.contextmanager
def model_fails_with(recorder: Recorder) -> Iterator[None]:
    """Ends the logged model as FAILED if the block fails, unless by a signal."""
    try:
        yield
    except SIGNAL_ERRORS:
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to report
            recorder.put(pieces.ModelFailedPiece())
        raise


def log_epoch(
    recorder: Recorder,
    result: EpochResult,
    train: ImageDirectoryDataset,
    val: ImageDirectoryDataset,
    has_model: bool = True,
    classifier: ImageClassifier | None = None,
    serving_for: str = "",
) -> None:
    """The epoch's metrics, tied to their data, and those of a best epoch to the model too, if there is one.

    The step is the epoch, and the optimizer's for learning rates. How long it took is tied to no data or model.

    Args:
        classifier: of the epoch's weights, to be logged as a model too, unless the disk is full.
    """
    of_val = {name: value for name, value in result.metrics.items() if name.startswith("val_")}
    timing = {name: value for name, value in result.metrics.items() if name.startswith("timing/")}
    of_train = {name: value for name, value in result.metrics.items() if name not in of_val | timing}
    of_model = has_model and result.is_best
    points = [make_point({"schedule/learning_rate": rate}, step, time) for step, rate, time in result.rates]
    points.append(make_point(timing, result.epoch, result.timestamp))
    points.append(make_point(of_train, result.epoch, result.timestamp, train, of_model))
    points.append(make_point(of_val, result.epoch, result.timestamp, val, of_model))
    if classifier:
        try:
            recorder.put(pieces.EpochPiece(step=result.epoch, points=points), make_saver(classifier, serving_for))
            return
        except OutputError as error:
            say(f"epoch {result.epoch} gets no model: {error.message}", "training goes on")
    recorder.put(pieces.MetricsPiece(points=points))


def log_report(
    recorder: Recorder,
    evaluation: Evaluation,
    data: ImageDirectoryDataset,
    predictor: Predictor,
    context: str,
    look: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Logs an evaluation's report in a folder named after the context.

    Args:
        look: called with the folder on this machine that has the files, which is soon gone.
    """

    def write(folder: Path) -> None:
        report.write_evaluation_report(folder, evaluation, data.directory, predictor)
        look(folder)

    log_files(recorder, write, context, report.REPORT_TABLES)


def log_evaluation(
    recorder: Recorder,
    evaluation: Evaluation,
    data: ImageDirectoryDataset,
    predictor: Predictor,
    with_metrics: bool = True,
    look: Callable[[Path], object] = lambda folder: None,
) -> None:
    """All of an evaluation that is not a part of a training, tied to the model if it is a known one.

    Args:
        recorder: whose `ids` have the `model_id`, or None.
        look: see `log_report`.
    """
    log_data(recorder, data, EVALUATION, of_model=bool(recorder.ids["model_id"]))
    if with_metrics:
        log_metrics(recorder, evaluation.metrics | evaluation.details, data=data, of_model=True)
    log_report(recorder, evaluation, data, predictor, EVALUATION, look)


def find_known_model_id(model: Model) -> str | None:
    """The id of a logged model, to tie metrics to; None if it was saved elsewhere than on this tracking server."""
    try:
        return MlflowClient().get_logged_model(model.model_id).model_id if model.model_id else None
    except MlflowException:
        return None


def log_classifier(recorder: Recorder, classifier: ImageClassifier, best_epoch: int, serving_for: str = "") -> None:
    """The files of the logged model, which makes it an output of the run.

    `flavor.log_model` would create a model of its own, or copy the run's system metrics to this one.
    """
    recorder.put(pieces.ModelFilesPiece(step=best_epoch), make_saver(classifier, serving_for))


def make_saver(classifier: ImageClassifier, serving_for: str = "") -> Callable[[Path], object]:
    """Returns a function that saves the classifier's model into the folder of a piece."""
    return lambda folder: flavor.save_model(classifier, folder / pieces.MODEL_NAME, serving_for=serving_for)
