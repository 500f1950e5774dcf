"""The composition root: the only module that knows the whole order. One function per verb."""

from __future__ import annotations

import contextlib
import shlex
import uuid
from collections import Counter
from dataclasses import asdict, fields
from typing import Any

from mlflow_resnet import flavor
from mlflow_resnet._version import __version__
from mlflow_resnet.console import is_first, say
from mlflow_resnet.evaluation.evaluate import Evaluation
from mlflow_resnet.evaluation.evaluate import evaluate as evaluate_images
from mlflow_resnet.images.destinations import resumable_destination
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.layout import name_data_set
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.launch import in_processes
from mlflow_resnet.model.hardware import keep_freed_memory
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.weights import MODEL_SCHEMES
from mlflow_resnet.options import (
    EvaluateOptions,
    ExplainOptions,
    PromoteOptions,
    ScoreOptions,
    ShadowOptions,
    TrainOptions,
)
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.preparation import Training, agreed, check, prepared
from mlflow_resnet.resuming import TrainingFolder, full_identity_of, opened_folder, saving_of, training_folder
from mlflow_resnet.scoring.batch import ScoredFile, add_nothing, check_suffix, join, score_to_parts
from mlflow_resnet.scoring.parts import Parts
from mlflow_resnet.scoring.progress import shown
from mlflow_resnet.scoring.selection import Selection
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.data import scanned_dataset
from mlflow_resnet.tracking.outages import recorded_by_way_of
from mlflow_resnet.tracking.recorder import recorder_of
from mlflow_resnet.tracking.remains import find_gone
from mlflow_resnet.tracking.run import attached_run_ends_with, recorded_run, run_of_workers
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.training import processes
from mlflow_resnet.training_run import TrainResult, all_params, as_saved, train_recorded, trained_at_once


def train(options: TrainOptions) -> TrainResult:
    """Trains a classifier on folders of images, logs the run and the model, registers it if a name is given.

    `options.processes` are started to share the work, unless torchrun has started several: then each calls this.

    Raises:
        MlflowResnetError: for anything a user can cause; nothing is registered then.
    """
    with attached_run_ends_with():
        if options.processes > 1 and not processes.was_launched():
            return train_in_processes(options)
        with processes.joined(), contextlib.ExitStack() as stack:
            options = agreed(options)
            with processes.agreeing():
                folder = stack.enter_context(training_folder(options)) if is_first() else None
            training = prepared(options)
            with processes.agreeing():
                if folder:
                    identity = full_identity_of(options, training)
                    folder.begin(identity, options.resume, options.checkpoint_mirror)
                    if folder.is_finished and not options.offline:
                        folder.confirm(identity, options.registered_model_name, options.alias)
                    folder.check_room(options, training)
            if finished := processes.of_first(finished_before(folder) if folder else None):
                return TrainResult(flavor.load_model(finished["model_uri"]), **finished)
            facts = record_training(options, training, folder) if is_first() else follow_training(options, training)
            facts = processes.of_first(facts)
            return TrainResult(as_saved(training.classifier, facts["metrics"]), **facts)


def finished_before(folder: TrainingFolder) -> dict[str, Any]:
    """What an earlier call with the same options and data left; empty if there was none that came to its end."""
    if not folder.is_finished:
        return {}
    result = folder.result()
    where = f"run {result['run_id'] or 'not delivered'}, model {result['model_uri']}"
    say(f"this training is complete: {where}. To repeat: --resume never")
    return result


def train_in_processes(options: TrainOptions) -> TrainResult:
    """Has workers train, and waits for them."""
    check(options, options.processes)
    with run_of_workers() as environment:
        return in_processes(options.processes, train, options, environment)


def record_training(options: TrainOptions, training: Training, folder: TrainingFolder | None) -> dict[str, Any]:
    """Trains and records it in a run; returns what a `TrainResult` has besides the classifier."""
    name, params = f"{options.architecture} on {name_data_set(options.train_dir)}", all_params(options, training)
    if folder:
        outbox, mirrored = folder.outbox, folder.mirrored(delivers=not options.offline)
        with mirrored, recorded_by_way_of(outbox, name, params, options.offline) as known:
            best = train_recorded(options, training, outbox, saving_of(folder, options), known)
            folder.finish(best)
        if options.offline:
            say(f"to deliver what was logged: mlflow-resnet sync {shlex.quote(str(folder.path))}")
        return folder.result()
    with recorded_run(name, params, uuid.uuid4().hex) as run:
        result = trained_at_once(options, training, run)
    return {field.name: getattr(result, field.name) for field in fields(result) if field.name != "classifier"}


def follow_training(options: TrainOptions, training: Training) -> dict[str, Any]:
    """Does this process's part of what the first process records."""
    for _ in training.epochs(options):
        pass
    return {}


def sync(directory: str) -> dict[str, Any]:
    """Delivers what a training in this folder could not; returns what a `TrainResult` has besides the classifier.

    Raises:
        ServerUnreachableError, NotDeliveredError: if that is still so; what is left is kept.
        CheckpointError: if there is no training in the folder, or it is going on.
    """
    with opened_folder(directory) as folder:
        check_servers(registry=any(folder.outbox.of_kind("version")))
        folder.deliver()
        if folder.is_finished and (gone := find_gone(folder.notes)):
            say(f"all was delivered, but {gone}")
        return folder.result()


def score(options: ScoreOptions) -> ScoredFile:
    """Scores every image below a directory or in a list, or a part, to a file that appears complete or not at all.

    Rows are kept in a hidden folder beside the file, or in the cache if it is in S3, every few seconds. If a call is
    killed or fails, the next one with the same model, images and options goes on after the last of them, in the order
    of `directory_sources`, and gives the rows that one call without interruption gives. Of images that were added,
    changed or removed meanwhile, it sees those that come after that place; rows that were kept stay as they are, and
    their images are not read again.

    Raises:
        MlflowResnetError: for anything a user can cause. A bad image is only a row.
    """
    with attached_run_ends_with():
        check_suffix(options.output)
        images = Selection(options.image_dir, *options.part, options.follow_links)
        images.check()
        check_servers_of(options.model_uri)
        ignored: Counter[str] = Counter()
        with resumable_destination(options.output) as path:
            identity = images.identity()
            predictor = load_predictor(options.model_uri, options, options.precision, options.backend)
            predictor = predictor.at_test_time(options.tta, options.resolution)
            parts = Parts(path.parent, what_decides_rows(options, predictor) | identity)
            done = parts.progress
            with shown("scoring", "img", done.rows, items=images.chosen()) as progress:
                score_to_parts(
                    predictor,
                    images.sources(ignored, after=done.last),
                    parts,
                    batch_size=options.batch_size,
                    top_k=options.top_k,
                    min_confidence=options.min_confidence,
                    on_rows=progress.advance,
                )
            if parts.progress.rows == 0:
                if not options.shard:
                    raise no_images(options.image_dir, Ignored(**ignored))
                add_nothing(parts, predictor.classes, options.top_k)
            with shown("writing", "row", total=parts.progress.rows) as progress:
                scored = join(parts, path, options.output, progress.advance, options.csv_formulas)
            say(f"{scored.rows} images in {options.image_dir}", str(Ignored(**ignored)))
    return scored


def what_decides_rows(options: ScoreOptions, predictor: Predictor) -> dict[str, Any]:
    """What two calls must have in common, besides the images, so that one can go on with the other's rows.

    The size of batches and the device are not in it: they decide no more than the rounding.
    """
    return {
        "model": predictor.model_sha256,
        "backend": options.backend,
        "precision": predictor.precision,
        "top_k": options.top_k,
        "min_confidence": options.min_confidence,
        "tta": options.tta,
        "resolution": options.resolution,
        "version of mlflow_resnet": __version__,
    }


def check_servers_of(model_uri: str) -> None:
    """Asks the servers that a model URI leads to; a folder or an object store needs none."""
    if model_uri.startswith(MODEL_SCHEMES):
        check_servers(registry=model_uri.startswith("models:/"))


def load_predictor(
    model_uri: str,
    options: EvaluateOptions | ExplainOptions | PromoteOptions | ScoreOptions | ShadowOptions,
    precision: str = AUTO,
    backend: str = AUTO,
) -> Predictor:
    """A model on the device that the options name, and otherwise as it is configured."""
    predictor = flavor.load_predictor(model_uri, options.device, options.num_workers, precision, backend)
    if predictor.device.type == "cpu":
        keep_freed_memory()
    return predictor


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Measures a model on a labeled directory and logs a run with metrics, tables, figures and galleries.

    Raises:
        MlflowResnetError: for anything a user can cause.
    """
    with attached_run_ends_with():
        check_directories(options.image_dir)
        check_servers(registry=options.model_uri.startswith("models:/"))
        predictor = load_predictor(options.model_uri, options, options.precision, options.backend)
        predictor = predictor.at_test_time(options.tta, options.resolution)
        dataset = scanned_dataset(options.image_dir, options, "evaluation")
        evaluation = evaluate_images(predictor, dataset.directory, options.batch_size)
        with recorded_run(f"evaluate {options.model_uri}", asdict(options)) as run:
            recorder = recorder_of(run)
            recorder.ids.note(model_id=predictor.model_id or None)
            record.log_params(recorder, asdict(options))
            record.log_evaluation(recorder, evaluation, dataset, predictor)
    return evaluation
