"""Ours as a contestant: the only module of the benchmarks that knows mlflow_resnet's training.

`fit` trains through the training API, `prepared` repeats what the training does to a network before its first step.
When the training changes, these two follow, and nothing else does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from setting import Setting, Trained
from steps import images_per_second, random_batch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlflow_resnet.evaluation.evaluate import evaluate
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training.loop import build_optimizer
from mlflow_resnet.training.loop import fit as fit_epochs
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.setup import augmented, starting_classifier


def fit(setting: Setting) -> Trained:
    """Trains as `mlflow-resnet train` does, without a run."""
    started = perf_counter()
    options = train_options(setting)
    train, val = list_labeled(options.train_dir), list_labeled(options.val_dir)
    classifier, _ = starting_classifier(options, train.class_names)
    images = augmented(options, classifier, train)
    with open(os.devnull, "w") as null:
        progress = Progress(options.epochs, options.print_frequency, stream=null)
        results = list(fit_epochs(classifier, images, val, options, progress))
    epoch_images = len(train) // options.batch_size * options.batch_size
    seconds = [epoch_images / result.metrics["train_images_per_second"] for result in results]
    total_seconds = perf_counter() - started
    score = partial(accuracy, classifier, device=setting.device)
    return Trained(epoch_images, seconds, total_seconds, classifier.network, score)


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
    return evaluate(Predictor(classifier, device), list_labeled(folder)).headline["top1_accuracy"]


def prepared(
    setting: Setting, num_classes: int
) -> tuple[nn.Module, Callable[[Tensor], Tensor], AbstractContextManager[Any]]:
    """A network as training has it, what training does to float32 images, and the context of the forward pass."""
    classifier, _ = starting_classifier(train_options(setting), tuple(map(str, range(num_classes))))
    return classifier.network.to(setting.device).train(), lambda images: images, contextlib.nullcontext()


def limit(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second of forward and backward alone: no loading, no optimizer."""
    return step_speed(setting, num_classes, seconds, optimize=False)


def whole_step(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second of forward, backward and the optimizer."""
    return step_speed(setting, num_classes, seconds, optimize=True)


def step_speed(setting: Setting, num_classes: int, seconds: float, optimize: bool) -> float:
    """Images per second of steps on one batch in memory, as training makes them."""
    network, convert, context = prepared(setting, num_classes)
    options = train_options(setting)
    optimizer = build_optimizer(network, options.learning_rate)
    images, targets = random_batch(options.batch_size, setting.crop_size, num_classes, setting.device)
    images = convert(images)

    def step() -> None:
        with context:
            loss = cross_entropy(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if optimize:
            optimizer.step()

    return images_per_second(step, options.batch_size, setting.device, seconds)


def parsed_option(text: str) -> tuple[str, Any]:
    """`precision=bf16` as a field of TrainOptions and its value, of the type that the field's default has."""
    name, _, value = text.partition("=")
    defaults = {field.name: field.default for field in fields(TrainOptions)}
    default = defaults.get(name)
    if isinstance(default, bool):
        return name, value.lower() in ("true", "1", "yes")
    if isinstance(default, (int, float, str)):
        return name, type(default)(value)
    raise ValueError(f"mlflow_resnet has no option {name!r}; there are {', '.join(defaults)}")
