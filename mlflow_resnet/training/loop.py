"""The epoch loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from dataclasses import replace
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from mlflow_resnet.errors import PredictionsDivergedError, TrainingDivergedError
from mlflow_resnet.evaluation.evaluation import Evaluation, prefix_metrics
from mlflow_resnet.io.console import say
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.hardware import keep_freed_memory
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.training import processes
from mlflow_resnet.training.course import Best, Course, EpochResult
from mlflow_resnet.training.progress import TrainingProgress
from mlflow_resnet.training.recipe import phases
from mlflow_resnet.training.saving import Saving
from mlflow_resnet.training.stopping import Stop
from mlflow_resnet.training.trainer import Trainer, has_finite_weights
from mlflow_resnet.training.work import Plan, build_work

PROBE_SHARE = 0.2  # of a time budget, at most, before the other layers are trained
REWIND_FACTOR, MAX_REWINDS = 0.1, 2
SAVE, STOP = 1, 2


def fit(
    plan: Plan, options: TrainOptions, progress: TrainingProgress, saving: Saving | None = None
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
            yield from fit_from(state, plan, options, progress, saving)
            return
        except TrainingDivergedError as error:
            state = saving.load() if options.on_divergence == "rewind" and rewinds < MAX_REWINDS else None
            if state is None:
                raise
            say(error.message, "going back to the last checkpoint, with a lower learning rate")
            state["trainer"]["rate_factor"] = REWIND_FACTOR ** (rewinds + 1)


def fit_from(
    state: dict[str, Any] | None, plan: Plan, options: TrainOptions, progress: TrainingProgress, saving: Saving
) -> Generator[EpochResult, None, None]:
    """`fit` from the `state` in a checkpoint, or from the start."""
    network, all_phases = plan.classifier.network, phases(plan.recipe)
    best = Best(options.best_metric, plan.recipe.patience, options.patience_delay)
    course = Course(best, perf_counter() + (options.max_minutes * 60 or math.inf))
    device = prepare_network(plan.classifier, options)
    if state:
        with saving.refuse_others():
            course.load_state_dict(state["course"], plan.classifier.classes, plan.val_images.targets)
            network.load_state_dict(state["network"])
    with deterministic_cudnn():
        for number in range(course.phase, len(all_phases)):
            work = build_work(all_phases[number], plan, options, device)
            share = 1 if number == len(all_phases) - 1 else PROBE_SHARE
            seconds = processes.broadcast_first(course.deadline - perf_counter()) * share
            trainer = Trainer(work, all_phases[number], options, progress, seconds)
            if state and number == state["course"]["phase"]:
                with saving.refuse_others():
                    trainer.load_state_dict(state["trainer"])
                yield from course.list_results_to_replay(trainer)
            else:
                course.begin_phase(number)
            yield from train_epochs(trainer, course, saving)
    network.load_state_dict(best.weights)
    network.to("cpu").eval()


def train_epochs(trainer: Trainer, course: Course, saving: Saving) -> Generator[EpochResult, None, None]:
    """Trains the epochs of a phase that are left, and yields after each."""
    progress, stop = trainer.progress, Stop()
    if saving.after_every_epoch:
        saving.save(course, trainer)
    try:
        while not course.is_phase_over(trainer):
            epoch = course.epoch + 1
            steps = trainer.train_one_epoch(epoch)
            with contextlib.closing(progress), stop.postpone():
                for _ in steps:
                    save_or_stop(course, saving, stop, trainer)
            evaluation = validate(trainer, epoch)
            metrics = trainer.epoch.metrics | prefix_metrics(evaluation.metrics, "validation")
            metrics["timing/validation_seconds"] = trainer.validation_seconds
            with stop.postpone():
                result = course.end_epoch(trainer, metrics, evaluation)
            progress.end_epoch(summarize(metrics, result.is_best))
            if processes.find_largest(saving.is_due_after_epoch()):
                saving.save(course, trainer)
            yield replace(result, weights=trainer.get_evaluation_weights())
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        at_same_step = processes.world_size() == 1 or stop.is_agreed or bool(trainer.epoch.metrics)
        if at_same_step and not trainer.in_step:
            saving.save(course, trainer)
        raise


def save_or_stop(course: Course, saving: Saving, stop: Stop, trainer: Trainer) -> None:
    """Saves after a step if it is time, and ends all processes after the same step if asked to."""
    wanted = processes.find_largest(STOP if stop.asked else SAVE * saving.is_due())
    if wanted == STOP:
        stop.obey_together()
    elif wanted == SAVE:
        saving.save(course, trainer)


def validate(trainer: Trainer, epoch: int) -> Evaluation:
    """Evaluates the averaged weights if there are any, else the trained ones.

    Raises:
        TrainingDivergedError: if they, or what they predict, are not finite.
    """
    started, module = perf_counter(), trainer.evaluation_module
    processes.share_buffers(module)
    if not has_finite_weights(module):
        raise trainer.divergence(TrainingDivergedError, "a weight or a statistic became nan or infinite", epoch)
    evaluation = trainer.work.evaluate(module)
    if not np.isfinite(evaluation.probabilities).all():
        loss = trainer.epoch.metrics["train_loss"]
        what = f"the outputs for the validation images became nan, although the training loss was {loss:.4f},"
        raise trainer.divergence(PredictionsDivergedError, what, epoch)
    trainer.validation_seconds = perf_counter() - started
    return evaluation


def prepare_network(classifier: ImageClassifier, options: TrainOptions) -> torch.device:
    """Moves the network to its device, where convolutions are fastest with channels last. Returns the device."""
    device = pick_device(processes.local_device(options.device))
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and processes.world_size() > 1:
        torch.cuda.set_device(device)  # where torch puts what has no place of its own
    if options.sync_batch_norm and processes.world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(classifier.network)
    classifier.network.to(device).to(memory_format=torch.channels_last)
    return device


def deterministic_cudnn() -> contextlib.AbstractContextManager[None]:
    """Lets cuDNN use only algorithms that give the same bits every time; restores its settings."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32)


def summarize(metrics: dict[str, float], is_best: bool) -> str:
    """One epoch in a line."""
    train = f"train loss {metrics['train_loss']:.4f}, {metrics['train_images_per_second']:.0f} images/s"
    val = f"val loss {metrics['val_loss']:.4f}, val top-1 {metrics['val_top1_accuracy']:.2%}"
    return f"{train}, {val}{' (best)' if is_best else ''}"
