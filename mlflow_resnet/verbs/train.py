"""Trains a classifier in a run of MLflow, in one process or several."""

from __future__ import annotations

import contextlib
import shlex
import uuid

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.metrics import format_interval
from mlflow_resnet.images.layout import name_data_set
from mlflow_resnet.io.console import is_first, say
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.folder import TrainingFolder, identify_training_fully, training_folder
from mlflow_resnet.runs.launch import in_processes
from mlflow_resnet.runs.preparation import Training, agree_on_options, check_options, prepare_training
from mlflow_resnet.runs.seeds import SeedsResult, drop_classifier, enter_run_of_seeds, record_seeds, vary_seed
from mlflow_resnet.runs.training import all_params, train_in_run, train_recorded
from mlflow_resnet.tracking.outbox import record_through_outbox
from mlflow_resnet.tracking.run import end_attached_run, enter_run, enter_worker_run
from mlflow_resnet.tracking.training_record import TrainingRecord, TrainResult
from mlflow_resnet.training import processes
from mlflow_resnet.training.saving import Saving
from mlflow_resnet.verbs.frame import describe_training


def train(options: TrainOptions) -> TrainResult:
    """Trains a classifier on folders of images, logs the run and the model, registers it if a name is given.

    `options.processes` are started to share the work, unless torchrun has started several: then each calls this.

    Returns:
        A `SeedsResult` if there are several seeds.

    Raises:
        MlflowResnetError: for anything a user can cause; nothing is registered then.
    """
    with end_attached_run():
        return train_with_seeds(options) if options.seeds > 1 else train_once(options)


def train_with_seeds(options: TrainOptions) -> SeedsResult:
    """Trains once for each seed. The same call goes on where an earlier one stopped, also with more seeds."""
    if processes.was_launched():
        problem = f"seeds is {options.seeds}, but torchrun was called; give the number of processes with --processes"
        raise InvalidOptionsError([problem])
    check_options(options, options.processes)
    with enter_run_of_seeds(options) as run:
        records: dict[int, TrainingRecord] = {}
        for seed, own in vary_seed(options).items():
            say(f"seed {seed}, {len(records) + 1} of {options.seeds}")
            records[seed] = drop_classifier(train_once(own))
        return record_seeds(options, records, run)


def train_once(options: TrainOptions) -> TrainResult:
    """Trains with one seed."""
    if options.processes > 1 and not processes.was_launched():
        check_options(options, options.processes)
        with enter_worker_run() as environment:
            return in_processes(options.processes, train, options, environment)
    with processes.join_processes(), contextlib.ExitStack() as stack:
        options = agree_on_options(options)
        with processes.agree_on_errors():
            folder = stack.enter_context(training_folder(options)) if is_first() else None
        training = prepare_training(options)
        with processes.agree_on_errors():
            record = begin_training(options, training, folder) if folder else None
        if finished := processes.broadcast_first(record):
            return TrainResult(**vars(finished), classifier=flavor.load_model(finished.model_uri))
        if is_first():
            record = record_training(options, training, folder)
        else:
            for _ in training.epochs(options):  # this process's part of what the first one records
                pass
        return processes.broadcast_first(record).complete(training.classifier)


def begin_training(options: TrainOptions, training: Training, folder: TrainingFolder) -> TrainingRecord | None:
    """Makes the folder that of this training. Returns its record if an earlier call with the same options finished it.

    Raises:
        CheckpointError: if the folder is another training's.
        NotDeliveredError: if the server does not take what is left of a finished one.
    """
    identity = identify_training_fully(options, training)
    folder.begin(identity, options.resume, options.checkpoint_mirror)
    if folder.is_finished and not options.offline:
        folder.confirm(identity, options.registered_model_name, options.alias)
    folder.check_room(options, training)
    if not folder.is_finished:
        return None
    record = folder.read_record()
    where = f"run {record.run_id or 'not delivered'}, model {record.model_uri}"
    say(f"this training is complete: {where}. To repeat: --resume never")
    return record


def record_training(options: TrainOptions, training: Training, folder: TrainingFolder | None) -> TrainingRecord:
    """Trains and records it in a run."""
    name, params = f"{options.architecture} on {name_data_set(options.train_dir)}", all_params(options, training)
    if options.split_seed != AUTO:
        name += f", seed {options.random_seed}"
    if folder is None:
        with enter_run(name, params, uuid.uuid4().hex) as run:
            return train_in_run(options, training, run)
    with contextlib.ExitStack() as stack:
        if folder.mirror:
            stack.enter_context(folder.mirror.run(delivers=not options.offline))
        known = stack.enter_context(record_through_outbox(folder.outbox, name, params, options.offline))
        saving = Saving(folder.checkpoints, options.checkpoint_minutes, options.on_divergence == "rewind")
        if folder.mirror:
            saving.on_saved = folder.mirror.offer
        best, classifier = train_recorded(options, training, folder.outbox, saving, known)
        folder.finish(best, classifier)
    if options.offline:
        say(f"to deliver what was logged: mlflow-resnet sync {shlex.quote(str(folder.path))}")
    return folder.read_record()


def summarize_train(result: TrainResult, options: TrainOptions) -> str:
    best = describe_training(result, options.registered_model_name)
    if not isinstance(result, SeedsResult):
        return best
    lines = []
    for name, called in (("val_top1_accuracy", "validation"), ("test_top1_accuracy", "test")):
        if spread := result.spreads.get(name):
            values = ", ".join(f"{each.metrics[name]:.4f}" for each in result.records.values())
            interval = format_interval((spread.low, spread.high))
            lines.append(f"{called} top-1 accuracy {spread.mean:.4f}{interval}, the mean of {values}")
    lines += [f"run of all trainings {result.parent_run_id}", "", f"the best, seed {result.best_seed}:"]
    return f"{in_lines(lines)}\n{best}"
