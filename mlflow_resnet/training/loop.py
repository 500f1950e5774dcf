"""The epoch loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from time import perf_counter

import numpy as np
import torch
from torch import nn

from mlflow_resnet.errors import CheckpointError, PredictionsDivergedError, TrainingDivergedError
from mlflow_resnet.evaluation.evaluate import Evaluation, named
from mlflow_resnet.io.console import say
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.hardware import is_out_of_memory, keep_freed_memory, use_tensor_cores
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.precision import pick_precision
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training.best import Best
from mlflow_resnet.training.budget import Budget
from mlflow_resnet.training.checkpoints import State
from mlflow_resnet.training.course import NETWORK, Course, EpochResult, Saving, restore_course, restore_trainer
from mlflow_resnet.training.distributed import processes
from mlflow_resnet.training.input.labeled_images import LabeledImages, TrainingImages
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.recipe import Recipe, phases
from mlflow_resnet.training.stopping import Stop
from mlflow_resnet.training.trainer import Trainer
from mlflow_resnet.training.work import FeatureWork, ImageWork

EVALUATION_BATCH_SIZE = 32
PROBE_SHARE = 0.2  # of a time budget, at most, before the other layers are trained
AUGMENTED_VIEWS = 4
REWIND_FACTOR, MAX_REWINDS = 0.1, 2
SAVE, STOP = 1, 2


def fit(
    classifier: ImageClassifier,
    train: TrainingImages,
    val: LabeledImages,
    recipe: Recipe,
    options: TrainOptions,
    progress: Progress,
    saving: Saving | None = None,
) -> Generator[EpochResult, None, None]:
    """Trains the classifier's network in place and yields after each epoch.

    Iterate to the end: only then the network holds the weights of the best epoch, on the CPU and in eval mode. Same
    seed, machine and number of torch threads give the same bits, unless there is a time budget.

    Args:
        saving: where there may be a checkpoint to go on from. The results of the best and the last epoch before it
            are then yielded first.

    Raises:
        TrainingDivergedError: if the loss becomes NaN or infinite, and going back to a checkpoint did not help.
        OutOfMemoryError: if even the smallest batch does not fit.
        CheckpointError, OutputError: if a checkpoint cannot be read or written.
    """
    saving = saving or Saving()
    state = saving.load()
    for rewinds in count():
        try:
            yield from fit_from(state, classifier, train, val, recipe, options, progress, saving)
            return
        except TrainingDivergedError as error:
            state = saving.load() if options.on_divergence == "rewind" and rewinds < MAX_REWINDS else None
            if state is None:
                raise
            say(error.message, "going back to the last checkpoint, with a lower learning rate")
            state.facts["trainer"]["rate_factor"] = REWIND_FACTOR ** (rewinds + 1)


@contextlib.contextmanager
def refuse_other_checkpoints(saving: Saving) -> Iterator[None]:
    """Around the use of a checkpoint that is as it was written, but perhaps by something else.

    Raises:
        CheckpointError: if it is not one of this training.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        what = f"its newest checkpoint is of something else ({type(error).__name__}: {one_line(error)})"
        where = saving.folder.path if saving.folder else "checkpoints"
        raise CheckpointError(where, f"{what}. To begin anew, give --resume never") from None


def fit_from(
    state: State | None,
    classifier: ImageClassifier,
    train: TrainingImages,
    val: LabeledImages,
    recipe: Recipe,
    options: TrainOptions,
    progress: Progress,
    saving: Saving,
) -> Generator[EpochResult, None, None]:
    """`fit` from a checkpoint's `state`, or from the start."""
    plan = phases(recipe)
    best = Best(options.best_metric, recipe.patience, options.patience_delay)
    course = Course(best, Budget(options.max_minutes * 60 or math.inf))
    device = prepare(classifier, options)
    if state:
        with refuse_other_checkpoints(saving):
            restore_course(course, state, classifier.classes, val.targets)
            classifier.network.load_state_dict(dict(state.tensors[NETWORK]))
    with deterministic_cudnn():
        for number in range(course.phase, len(plan)):
            work = work_of(plan[number], classifier, train, val, options, device)
            share = 1 if number == len(plan) - 1 else PROBE_SHARE
            seconds = processes.of_first(course.budget.left()) * share
            if state:
                seconds = state.facts["trainer"]["phase_seconds"]
            stop = Stop()
            trainer = Trainer(work, plan[number], options, progress, seconds, partial(obey, stop, saving, course))
            if state:
                with refuse_other_checkpoints(saving):
                    restore_trainer(trainer, state)
                yield from course.told_again(trainer)
            else:
                course.begin_phase(number)
            yield from epochs_of(trainer, course, stop, saving)
            state = None
    classifier.network.load_state_dict(best.weights)
    classifier.network.to("cpu").eval()


def epochs_of(trainer: Trainer, course: Course, stop: Stop, saving: Saving) -> Generator[EpochResult, None, None]:
    """The epochs of a phase that are left."""
    progress = trainer.progress
    if saving.after_every_epoch:
        saving.save(course, trainer)
    try:
        while not course.is_phase_over(trainer.recipe.epochs, trainer):
            epoch = course.epoch + 1
            with contextlib.closing(progress), stop.postponed():
                train_metrics = trainer.train_one_epoch(epoch)
            evaluation = validate(trainer, epoch)
            metrics = train_metrics | named(evaluation.metrics, "validation")
            metrics["timing/validation_seconds"] = trainer.validation_seconds
            with stop.postponed():
                is_best = course.best.update(epoch, metrics, trainer.evaluated_weights())
                rates = [(course.steps + step, rate, time) for step, rate, time in trainer.epoch.rates]
                result = EpochResult(epoch, metrics, evaluation, is_best, rates)
                course.end_epoch(result)
                trainer.end_epoch()
            progress.end_epoch(summarize(metrics, is_best))
            if processes.largest(saving.is_due_after_epoch()):
                saving.save(course, trainer)
            yield replace(result, weights=trainer.evaluated_weights())
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        if can_be_saved(trainer, stop):
            saving.save(course, trainer)
        raise


def obey(stop: Stop, saving: Saving, course: Course, trainer: Trainer) -> None:
    """After each step: ends the training if asked to, in all processes after the same step; saves if it is time."""
    wanted = processes.largest(STOP if stop.asked else SAVE * saving.is_due())
    if wanted == STOP:
        stop.obey_together()
    elif wanted == SAVE:
        saving.save(course, trainer)


def can_be_saved(trainer: Trainer, stop: Stop) -> bool:
    """Whether everything is of the same step, in all processes."""
    together = processes.world_size() == 1 or stop.is_agreed or bool(trainer.epoch.metrics)
    return together and not trainer.in_step


def prepare(classifier: ImageClassifier, options: TrainOptions) -> torch.device:
    """Moves the network to its device, where convolutions are fastest with channels last. Returns the device."""
    device = pick_device(processes.local_device(options.device))
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and processes.world_size() > 1:
        torch.cuda.set_device(device)  # where torch puts what has no place of its own
    use_tensor_cores()
    if options.sync_batch_norm and processes.world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(classifier.network)
    classifier.network.to(device).to(memory_format=torch.channels_last)
    return device


def work_of(
    phase: Recipe,
    classifier: ImageClassifier,
    train: TrainingImages,
    val: LabeledImages,
    options: TrainOptions,
    device: torch.device,
) -> ImageWork | FeatureWork:
    """Images for the whole network; features, computed once, for the head alone."""
    threads = options.num_workers or default_threads()
    if phase.strategy == "linear_probe":
        views = options.feature_views or (AUGMENTED_VIEWS if train.augmentation.is_random else 1)
        dtype = pick_precision(options.precision, device)
        return FeatureWork(classifier, train, val, device, threads, views, dtype)
    return ImageWork(classifier, train, val, device, threads, options.freeze_until)


def validate(trainer: Trainer, epoch: int) -> Evaluation:
    """Evaluates the weights that count.

    Raises:
        TrainingDivergedError: if they, or what they predict, are not finite.
    """
    started, module = perf_counter(), trainer.evaluated_module
    processes.share_buffers(module)
    trainer.check_weights(module, epoch)
    evaluation = trainer.work.evaluate(module, EVALUATION_BATCH_SIZE)
    if not np.isfinite(evaluation.probabilities).all():
        loss = trainer.epoch.metrics["train_loss"]
        what = f"the outputs for the validation images became nan, although the training loss was {loss:.4f},"
        raise trainer.divergence(PredictionsDivergedError, what, epoch)
    trainer.validation_seconds = perf_counter() - started
    return evaluation


@contextlib.contextmanager
def deterministic_cudnn() -> Iterator[None]:
    """Lets cuDNN use only algorithms that give the same bits every time; restores its settings."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32):
        yield


def summarize(metrics: dict[str, float], is_best: bool) -> str:
    """One epoch in a line."""
    train = f"train loss {metrics['train_loss']:.4f}, {metrics['train_images_per_second']:.0f} images/s"
    val = f"val loss {metrics['val_loss']:.4f}, val top-1 {metrics['val_top1_accuracy']:.2%}"
    return f"{train}, {val}{' (best)' if is_best else ''}"
