"""Ours as a contestant: the only module of the benchmarks that knows mlflow_resnet's training.

`fit` and `fit_saving` train through the training API; `step_speed` repeats what the training does to a network before
its first step. When the training changes, these follow, and nothing else does.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, get_args, get_type_hints

import torch
from setting import Setting, Trained
from steps import images_per_second, random_batch
from torch.nn.functional import cross_entropy

from mlflow_resnet.evaluation.evaluation import Evaluation, evaluate_directory
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.io.process import claim_process
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.precision import pick_precision
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.preparation import build_starting_classifier, prepare_training
from mlflow_resnet.training.checkpoints import CheckpointFolder
from mlflow_resnet.training.course import Course
from mlflow_resnet.training.loop import prepare_network
from mlflow_resnet.training.optimizer import build_optimizer
from mlflow_resnet.training.recipe import Recipe, decide_recipe
from mlflow_resnet.training.saving import Saving
from mlflow_resnet.training.trainer import Trainer

claim_process()  # as the command line does


def fit(setting: Setting) -> Trained:
    """Trains as `mlflow-resnet train` does, without a run."""
    started = perf_counter()
    options = train_options(setting)
    training = prepare_training(options)
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        results = list(training.epochs(options))
    batch_size = training.recipe.batch_size
    epoch_images = len(training.train_images) // batch_size * batch_size
    seconds = [epoch_images / result.metrics["train_images_per_second"] for result in results]
    total_seconds = perf_counter() - started
    score = partial(accuracy, training.classifier, device=setting.device)
    return Trained(epoch_images, seconds, total_seconds, training.classifier.network, score)


def fit_calibrated(setting: Setting, test_dir: Path) -> Evaluation:
    """Trains, fits the temperature on the validation images, and evaluates the calibrated classifier on `test_dir`."""
    options = train_options(setting)
    training = prepare_training(options)
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        best = [result for result in training.epochs(options) if result.is_best][-1]
    classifier = replace(training.classifier, temperature=best.evaluation.fit_temperature())
    return evaluate_directory(Predictor(classifier, setting.device), list_labeled(test_dir))


def fit_saving(setting: Setting, folder: Path | None) -> tuple[float, list[float]]:
    """Seconds of a training from its first step, and of writing each checkpoint; None: without checkpoints."""
    options = train_options(setting)
    training = prepare_training(options)
    saving = TimedSaving(CheckpointFolder(folder) if folder else None, options.checkpoint_minutes)
    started = perf_counter()
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        for _ in training.epochs(options, saving):
            pass
    return perf_counter() - started, saving.seconds


@dataclass
class TimedSaving(Saving):
    """Notes the seconds of each checkpoint."""

    seconds: list[float] = field(default_factory=list)

    def save(self, course: Course, trainer: Trainer) -> None:
        before, started = self.saved, perf_counter()
        super().save(course, trainer)
        if self.saved != before:
            self.seconds.append(perf_counter() - started)


def train_options(setting: Setting) -> TrainOptions:
    """The defaults, except for what the setting names."""
    wanted: dict[str, Any] = {
        "architecture": setting.architecture,
        "pretrained": False,
        "epochs": setting.epochs,
        "random_seed": setting.seed,
        "resize_size": setting.resize_size,
        "crop_size": setting.crop_size,
        "device": setting.device,
    }
    if setting.batch_size:
        wanted["batch_size"] = setting.batch_size
    if setting.weights:
        wanted["weights"] = str(setting.weights)
    if setting.linear_probe:
        wanted["strategy"] = "linear_probe"
    return TrainOptions(train_dir=str(setting.train_dir), val_dir=str(setting.val_dir), **wanted | setting.ours)


def accuracy(classifier: ImageClassifier, folder: Path, *, device: str) -> float:
    """Top-1 accuracy through the predict path, a fraction."""
    return evaluate_directory(Predictor(classifier, device), list_labeled(folder)).headline["top1_accuracy"]


def limit(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second of forward and backward alone: no loading, no optimizer."""
    return step_speed(setting, num_classes, seconds, optimize=False)


def whole_step(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second of forward, backward and the optimizer."""
    return step_speed(setting, num_classes, seconds, optimize=True)


def untrained(options: TrainOptions, num_classes: int) -> tuple[ImageClassifier, Recipe]:
    """What a training begins with."""
    classes = tuple(map(str, range(num_classes)))
    recipe = decide_recipe(options, classes, images=10**6)
    return build_starting_classifier(options, recipe, classes)[0], recipe


def untrained_predictor(setting: Setting, num_classes: int) -> Predictor:
    options = train_options(setting)
    return Predictor(untrained(options, num_classes)[0], setting.device, precision=options.precision)


def forward_pass(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second from raw pixels in memory to probabilities, as scoring does it."""
    predictor = untrained_predictor(setting, num_classes)
    batch_size, size = setting.batch_size or 32, setting.crop_size
    images = torch.randint(256, (batch_size, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return images_per_second(lambda: predictor.probabilities(images), batch_size, setting.device, seconds)


def step_speed(setting: Setting, num_classes: int, seconds: float, optimize: bool) -> float:
    """Images per second of steps on one batch in memory, with the network as training prepares it."""
    options = train_options(setting)
    classifier, recipe = untrained(options, num_classes)
    device = prepare_network(classifier, options)
    dtype = pick_precision(options.precision, device)
    network = classifier.network.train()
    forward = torch.compile(network) if options.compile else network
    optimizer = build_optimizer(network, recipe)
    images, targets = random_batch(recipe.batch_size, setting.crop_size, num_classes, setting.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = forward(images)
        loss = cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if optimize:
            optimizer.step()

    return images_per_second(step, recipe.batch_size, setting.device, seconds)


def parsed_option(text: str) -> tuple[str, Any]:
    """`precision=bf16` as a field of TrainOptions and its value, of the type that the field has."""
    name, _, value = text.partition("=")
    if name not in {each.name for each in fields(TrainOptions)}:
        raise ValueError(f"mlflow_resnet's train has no option {name!r}")
    annotation = get_type_hints(TrainOptions)[name]
    kind = annotation if isinstance(annotation, type) else get_args(annotation)[0]
    if value == "auto":
        return name, value
    return name, value.lower() in ("true", "1", "yes") if kind is bool else kind(value)
