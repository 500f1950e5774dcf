"""Trains a classifier in a run of MLflow, in one process or several."""

from __future__ import annotations

import contextlib
import shlex
import uuid
from dataclasses import fields
from typing import Any

from mlflow_resnet import flavor
from mlflow_resnet.io.console import is_first, say
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.folder import TrainingFolder, full_identity_of, saving_of, training_folder
from mlflow_resnet.runs.launch import in_processes
from mlflow_resnet.runs.preparation import Training, agreed, check, prepared
from mlflow_resnet.runs.training import TrainResult, all_params, as_saved, train_recorded, trained_at_once
from mlflow_resnet.tracking.outages import recorded_by_way_of
from mlflow_resnet.tracking.run import attached_run_ends_with, recorded_run, run_of_workers
from mlflow_resnet.training.distributed import processes
from mlflow_resnet.verbs.frame import describe_training


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
    name, params = f"{options.architecture} on {training.train_set.name}", all_params(options, training)
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


def summarize_train(result: TrainResult, options: TrainOptions) -> str:
    return describe_training(result, options.registered_model_name)
