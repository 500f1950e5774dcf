"""The recipes behind "auto": defaults of each strategy, and the phases of a training."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.metrics import TOP_K
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.train import TrainOptions

MAX_WARMUP_EPOCHS = 5.0
WARMUP_FRACTION = 0.1  # of the epochs
MAX_PROBE_EPOCHS = 5


@dataclass(frozen=True)
class Recipe:
    """Settings of a training. The fields are those of `TrainOptions` that can be "auto", decided.

    Attributes:
        decay_all: whether weight decay also applies to biases and batch norms, as in the designer.
        normalize_half: whether images are normalized with mean and standard deviation 0.5, as in the designer.
    """

    strategy: str
    epochs: int
    probe_epochs: int = 0
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    layer_decay: float = 1.0
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    weight_decay: float = 5e-4
    gradient_clip: float = 0.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.0
    patience: int = 0
    random_resized_crop: bool = True
    min_crop_area: float = 0.35
    random_horizontal_flip: bool = True
    random_erasing: float = 0.0
    auto_augment: str = "none"
    mixup: float = 0.0
    cutmix: float = 0.0
    decay_all: bool = False
    normalize_half: bool = False


FINETUNE = Recipe("finetune", epochs=10, learning_rate=0.01, layer_decay=0.75, weight_decay=1e-4)
RECIPES = {
    "scratch": Recipe("scratch", epochs=40),
    "finetune": FINETUNE,
    "linear_probe": Recipe(
        "linear_probe",
        epochs=20,
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        label_smoothing=0.0,
        random_resized_crop=False,
        random_horizontal_flip=False,
    ),
    "probe_then_finetune": replace(FINETUNE, strategy="probe_then_finetune", epochs=13),
    # Train PyTorch Model and the default Init Image Transformation of the Azure ML designer.
    "designer": Recipe(
        "finetune",
        epochs=5,
        batch_size=16,
        learning_rate=0.001,
        schedule="polynomial",
        weight_decay=1e-4,
        label_smoothing=0.0,
        patience=3,
        random_resized_crop=False,
        decay_all=True,
        normalize_half=True,
    ),
}
AUTOMATIC = tuple(field.name for field in fields(Recipe) if field.name in TrainOptions.__dataclass_fields__)


def decide_recipe(options: TrainOptions, classes: tuple[str, ...], images: int) -> Recipe:
    """The recipe that `options` ask for, with every "auto" decided, for `images` training images of `classes`.

    Raises:
        InvalidOptionsError: if given values do not go with the decided ones.
    """
    automatic = "probe_then_finetune" if options.pretrained or options.weights else "scratch"
    strategy = automatic if options.strategy == AUTO else options.strategy
    recipe = RECIPES["designer" if options.recipe == "designer" else strategy]
    given = {name: value for name in AUTOMATIC if (value := getattr(options, name)) != AUTO and name != "strategy"}
    recipe = replace(recipe, **given)
    if strategy == "probe_then_finetune" and options.probe_epochs == AUTO:
        recipe = replace(recipe, probe_epochs=min(2 * recipe.epochs // 5, MAX_PROBE_EPOCHS))
    if options.recipe != "designer":
        if options.warmup_epochs == AUTO:
            recipe = replace(recipe, warmup_epochs=min(WARMUP_FRACTION * recipe.epochs, MAX_WARMUP_EPOCHS))
        are_characters = all(len(name) == 1 and name.isalnum() for name in classes)  # which are others when mirrored
        if options.random_horizontal_flip == AUTO and are_characters:
            recipe = replace(recipe, random_horizontal_flip=False)
    if options.batch_size == AUTO and recipe.batch_size > images:
        recipe = replace(recipe, batch_size=max(images // options.processes, 1) * options.processes)
    if options.random_crop:
        recipe = replace(recipe, random_resized_crop=False)
    check_recipe(options, recipe, len(classes))
    return recipe


def check_recipe(options: TrainOptions, recipe: Recipe, num_classes: int) -> None:
    """Raises an error for given values that contradict the recipe."""
    problems = []
    if recipe.warmup_epochs > recipe.epochs:
        problems.append(f"warmup_epochs {recipe.warmup_epochs:g} is more than the {recipe.epochs} epochs")
    if recipe.strategy == "probe_then_finetune" and recipe.probe_epochs >= recipe.epochs:
        problems.append(
            f"probe_epochs {recipe.probe_epochs} leaves none of the {recipe.epochs} epochs to finetune in; "
            "give fewer probe_epochs, more epochs, or strategy linear_probe"
        )
    if recipe.batch_size % options.processes:
        problems.append(f"batch_size {recipe.batch_size} cannot be divided among {options.processes} processes")
    if options.best_metric == "val_top5_accuracy" and num_classes <= TOP_K:
        problems.append(f"best_metric is 'val_top5_accuracy', which needs more than {TOP_K} classes, not {num_classes}")
    if problems:
        raise InvalidOptionsError(problems)


def phases(recipe: Recipe) -> list[Recipe]:
    """The recipes that are followed one after the other; their epochs add up to `recipe.epochs`."""
    if recipe.strategy != "probe_then_finetune" or recipe.probe_epochs == 0:
        return [recipe]
    probe = replace(RECIPES["linear_probe"], epochs=recipe.probe_epochs, batch_size=recipe.batch_size)
    epochs = recipe.epochs - recipe.probe_epochs
    return [probe, replace(recipe, strategy="finetune", epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, epochs))]
