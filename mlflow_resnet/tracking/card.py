"""The run's description in Markdown: what was trained on what, with which result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.options import SweepOptions, TrainOptions
from mlflow_resnet.training.recipe import Recipe

MAX_LISTED_CLASSES = 20


def training_card(
    options: TrainOptions,
    recipe: Recipe,
    train: LabeledDirectory,
    val: LabeledDirectory,
    start: str,
    best_epoch: int,
    metrics: Mapping[str, float],
) -> str:
    """Args: start: what the weights were before training; metrics: of the best epoch, fractions and nats."""
    top5 = metrics.get("val_top5_accuracy")
    top5_row = "" if top5 is None else f"\n| validation top-5 accuracy | {top5:.2%} |"
    held_out = options.val_dir or f"{options.val_fraction:g} of the same, stratified"
    return f"""## {options.architecture}, {metrics["val_top1_accuracy"]:.2%} on {len(val)} validation images

| | |
|---|---|
| validation top-1 accuracy | {metrics["val_top1_accuracy"]:.2%} |{top5_row}
| validation loss | {metrics["val_loss"]:.4f} |
| best epoch | {best_epoch} of {recipe.epochs}, chosen on the validation images |

**Data.** {len(train)} images of {len(train.classes)} classes ({class_list(train.class_names)}) \
from `{options.train_dir}`; validated on {len(val)} from `{held_out}`.

**Start.** {start[0].upper() + start[1:]}.

**Recipe.** {recipe.strategy}, {recipe.optimizer}, learning rate {recipe.learning_rate:g} ({recipe.schedule}), \
batch size {recipe.batch_size}, seed {options.random_seed}; images resized to {options.resize_size} and cropped to \
{options.crop_size} pixels. All of it is in `training.json`.
"""


def class_list(classes: tuple[str, ...]) -> str:
    more = f" and {len(classes) - MAX_LISTED_CLASSES} more" if len(classes) > MAX_LISTED_CLASSES else ""
    return ", ".join(f"`{name}`" for name in classes[:MAX_LISTED_CLASSES]) + more


def sweep_card(
    options: SweepOptions, study: str, trials: int, best: int, value: float, values: Mapping[str, Any]
) -> str:
    """Args: best: number of the best trial; value: its `best_metric`; values: option -> value."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"""## Sweep of {options.architecture}: {options.best_metric} {value:.4f}

The best of {trials} trials is trial {best}:

| option | value |
|---|---|
{rows}

The trials are the runs below this one; compare them in a parallel-coordinates plot of the options above against \
`best_{options.best_metric}`. Optuna's study is `{study}`.
"""
