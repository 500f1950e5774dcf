"""The epoch loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch

from mlflow_resnet.evaluation.evaluate import Evaluation
from mlflow_resnet.images.parallel import default_threads
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training import processes
from mlflow_resnet.training.best import Best
from mlflow_resnet.training.budget import Budget
from mlflow_resnet.training.data import LabeledImages, TrainingImages
from mlflow_resnet.training.hardware import keep_freed_memory, pick_precision, use_tensor_cores
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.recipe import Recipe, phases
from mlflow_resnet.training.synchronized import synchronize_batch_norms
from mlflow_resnet.training.trainer import Trainer
from mlflow_resnet.training.work import FeatureWork, ImageWork

VAL_NAMES = {"log_loss": "val_loss"}
EVALUATION_BATCH_SIZE = 32
PROBE_SHARE = 0.2  # of a time budget, at most, before the other layers are trained
AUGMENTED_VIEWS = 4


@dataclass(frozen=True)
class EpochResult:
    """One epoch's numbers. `epoch` counts from 1; metrics are fractions, mean losses in nats, and images per second."""

    epoch: int
    metrics: dict[str, float]
    evaluation: Evaluation
    is_best: bool


def fit(
    classifier: ImageClassifier,
    train: TrainingImages,
    val: LabeledImages,
    recipe: Recipe,
    options: TrainOptions,
    progress: Progress,
) -> Iterator[EpochResult]:
    """Trains the classifier's network in place and yields after each epoch.

    Iterate to the end: only then the network holds the weights of the best epoch, on the CPU and in eval mode. Same
    seed, machine and number of torch threads give the same bits, unless there is a time budget.

    Raises:
        TrainingDivergedError: if the loss becomes NaN or infinite.
        OutOfMemoryError: if even the smallest batch does not fit.
    """
    best = Best(options.best_metric, recipe.patience, options.patience_delay)
    budget = Budget(options.max_minutes * 60 or math.inf)
    device = prepare(classifier, options)
    plan = phases(recipe)
    epoch = 0
    with deterministic_cudnn():
        for phase in plan:
            work = work_of(phase, classifier, train, val, options, device)
            seconds = processes.of_first(budget.left()) * (1 if phase is plan[-1] else PROBE_SHARE)
            trainer = Trainer(work, phase, options, progress, seconds)
            best.begin_phase(epoch)
            for _ in range(phase.epochs):
                epoch += 1
                with contextlib.closing(progress):
                    train_metrics = trainer.train_one_epoch(epoch)
                evaluation = validate(trainer)
                metrics = train_metrics | named_for_validation(evaluation.metrics)
                is_best = best.update(epoch, metrics, work.state(trainer.evaluated_module))
                progress.end_epoch(summarize(metrics, is_best))
                yield EpochResult(epoch, metrics, evaluation, is_best)
                if trainer.is_done() or best.is_over(epoch):
                    break
    classifier.network.load_state_dict(best.weights)
    classifier.network.to("cpu").eval()


def prepare(classifier: ImageClassifier, options: TrainOptions) -> torch.device:
    """Moves the network to its device, where convolutions are fastest with channels last. Returns the device."""
    device = pick_device(processes.local_device(options.device))
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and processes.world_size() > 1:
        torch.cuda.set_device(device)  # where torch puts what has no place of its own
    use_tensor_cores()
    if options.sync_batch_norm:
        synchronize_batch_norms(classifier.network, device)
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


def validate(trainer: Trainer) -> Evaluation:
    """Evaluates the weights that count.

    Raises:
        TrainingDivergedError: if they are not finite.
    """
    started, module = perf_counter(), trainer.evaluated_module
    processes.share_buffers(module)
    trainer.check_weights(module)
    evaluation = trainer.work.evaluate(module, EVALUATION_BATCH_SIZE)
    trainer.validation_seconds = perf_counter() - started
    return evaluation


def named_for_validation(metrics: dict[str, float]) -> dict[str, float]:
    return {VAL_NAMES.get(name, f"val_{name}"): value for name, value in metrics.items()}


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
