"""The run's description in Markdown: what was trained on what, with which result."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.options import TrainOptions

MAX_LISTED_CLASSES = 20


def training_card(
    options: TrainOptions,
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
| best epoch | {best_epoch} of {options.epochs}, chosen on the validation images |

**Data.** {len(train)} images of {len(train.classes)} classes ({class_list(train.class_names)}) \
from `{options.train_dir}`; validated on {len(val)} from `{held_out}`.

**Start.** {start[0].upper() + start[1:]}.

**Recipe.** SGD with Nesterov momentum, learning rate {options.learning_rate:g}, batch size {options.batch_size}, \
seed {options.random_seed}; images resized to {options.resize_size} and cropped to {options.crop_size} pixels.
"""


def class_list(classes: tuple[str, ...]) -> str:
    more = f" and {len(classes) - MAX_LISTED_CLASSES} more" if len(classes) > MAX_LISTED_CLASSES else ""
    return ", ".join(f"`{name}`" for name in classes[:MAX_LISTED_CLASSES]) + more
