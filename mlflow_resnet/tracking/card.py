"""The Markdown descriptions that MLflow shows above a run, and beside a version of a registered model."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from mlflow_resnet._version import __version__
from mlflow_resnet.evaluation.evaluate import Evaluation, name_of
from mlflow_resnet.io.text.characters import presentable
from mlflow_resnet.io.text.markdown import code, plain
from mlflow_resnet.options.metric_names import HEADLINE
from mlflow_resnet.options.sweep import SweepOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.training.recipe import Recipe

MAX_LISTED_CLASSES = 20
MAX_RUN, MAX_VERSION = 8000, 5000  # characters that MLflow keeps of a description
FEW_IMAGES = 20  # of a class; its numbers are mostly luck
TEMPERATURE = "calibration/temperature"
TORCHVISION_LICENCE = (
    "torchvision's code is BSD-3-Clause; its weights may have terms of their own, derived from ImageNet, whose images "
    "are for non-commercial research"
)


@dataclass(frozen=True)
class CardFacts:
    """What the description of a training is made of.

    Attributes:
        held_out: the images that it was measured on, by context: validation, and perhaps test.
        start: what the weights were before training.
        findings: of the audit, each a kind and a number of images.
        metrics: of the best epoch.
        evaluations: of the finished model, by context.
        environment: what besides the options decides the bits of the weights.
    """

    options: TrainOptions
    recipe: Recipe
    train: ImageDirectoryDataset
    held_out: Mapping[str, ImageDirectoryDataset]
    start: str
    findings: Sequence[str]
    best_epoch: int
    metrics: Mapping[str, float]
    evaluations: Mapping[str, Evaluation]
    environment: Mapping[str, Any]


def training_card(facts: CardFacts) -> str:
    """Results with intervals, confidence, data, weights and licence, limits, and how to use and repeat it."""
    sections = (results, confidence, data, weights, recipe, limits, use, repeat)
    return cut("\n".join(line for section in sections for line in (*section(facts), "")), MAX_RUN)


def for_version(card: str) -> str:
    """As much of it as the description of a version can hold."""
    return cut(card, MAX_VERSION)


def cut(text: str, most: int) -> str:
    """Whole lines of the text, which ends with a note if there is more."""
    end = "\n\n… (cut; MLflow keeps no more)"
    return text if len(text) <= most else text[: most - len(end)].rpartition("\n")[0] + end


def results(facts: CardFacts) -> Iterator[str]:
    evaluation = facts.evaluations["validation"]
    top1, images = evaluation.headline["top1_accuracy"], len(evaluation.targets)
    yield f"## {facts.options.architecture}, {top1:.2%} of {images} validation images right"
    yield ""
    yield "| | value | 95 % interval |"
    yield "|---|---|---|"
    for context, found in facts.evaluations.items():
        values = found.metrics
        for name in (each for each in HEADLINE if each in values):
            low, high = found.intervals[name]
            title = f"{context} loss, calibrated" if name == "log_loss" else name_of(name, context)
            yield f"| {title} | {shown(name, values[name])} | {shown(name, low)} to {shown(name, high)} |"
    present = evaluation.per_class[evaluation.per_class["support"] > 0]
    worst = present.sort_values("recall", kind="stable").iloc[0]
    yield ""
    yield (
        f"Best epoch {facts.best_epoch} of {facts.recipe.epochs}, chosen on the validation images. Least recall: "
        f"{code(worst['class'])}, {worst['recall']:.1%} of {worst['support']} images. Mistakes, galleries and every "
        f"prediction are in the artifacts below `{'` and `'.join(facts.evaluations)}`."
    )


def shown(metric: str, value: float) -> str:
    return f"{value:.4f}" if metric == "log_loss" else f"{value:.2%}"


def confidence(facts: CardFacts) -> Iterator[str]:
    yield "### Confidence"
    temperature = facts.metrics[TEMPERATURE]
    how = "fitted on the validation images" if temperature != 1 else "as trained"
    yield f"Probabilities are those at temperature {temperature:.3f}, {how}."
    for context, found in facts.evaluations.items():
        scores = found.calibration
        yield (
            f"On the {context} images the expected calibration error is {scores['ece']:.4f} "
            f"({scores['ece_before']:.4f} as trained), the Brier score {scores['brier']:.4f} "
            f"({scores['brier_before']:.4f}), the loss {scores['log_loss']:.4f} ({scores['log_loss_before']:.4f})."
        )
    yield "`thresholds.json` says what a `min_confidence` would leave out."


def data(facts: CardFacts) -> Iterator[str]:
    train, options = facts.train, facts.options
    classes = train.directory.class_names
    yield "### Data"
    yield "| | images | from | digest |"
    yield "|---|---|---|---|"
    yield f"| training | {len(train.directory)} | {code(options.train_dir)} | {code(train.digest)} |"
    split = f"{options.val_fraction:g} of the same, stratified"
    sources = {"validation": code(options.val_dir) if options.val_dir else split, "test": code(options.test_dir)}
    for context, held_out in facts.held_out.items():
        yield f"| {context} | {len(held_out.directory)} | {sources[context]} | {code(held_out.digest)} |"
    yield ""
    yield f"{len(classes)} classes: {class_list(classes)}."
    if options.audit:
        yield f"Audit: {', '.join(facts.findings) or 'nothing found'}."


def class_list(classes: tuple[str, ...]) -> str:
    more = f" and {len(classes) - MAX_LISTED_CLASSES} more" if len(classes) > MAX_LISTED_CLASSES else ""
    return ", ".join(map(code, classes[:MAX_LISTED_CLASSES])) + more


def weights(facts: CardFacts) -> Iterator[str]:
    yield "### Weights and licence"
    yield f"{plain(facts.start[0].upper() + facts.start[1:])}. {licence(facts)}."


def licence(facts: CardFacts) -> str:
    options = facts.options
    if facts.recipe.strategy == "scratch":
        return "No licence but that of the images binds them"
    if options.weights and not options.weights.startswith("IMAGENET1K"):
        return "The licence of these weights, and that of the images, binds the model"
    return (
        TORCHVISION_LICENCE if options.weights or options.pretrained else "No licence but that of the images binds them"
    )


def recipe(facts: CardFacts) -> Iterator[str]:
    options, chosen = facts.options, facts.recipe
    yield "### Recipe"
    yield (
        f"{chosen.strategy}, {chosen.optimizer}, learning rate {chosen.learning_rate:g} ({chosen.schedule}), "
        f"batch size {chosen.batch_size}, seed {options.random_seed}; images resized to {options.resize_size} and "
        f"cropped to {options.crop_size} pixels. All of it is in `training.json`."
    )


def limits(facts: CardFacts) -> Iterator[str]:
    yield "### Limits"
    yield f"- Every picture gets one of the {len(facts.train.directory.classes)} classes, also one of something else."
    yield "- Only the center of a picture is seen, after its shorter edge was scaled; see the sizes above."
    if not facts.options.val_dir:
        yield "- Validation images are from the same folder as the training images; pictures from elsewhere are harder."
    if "test" not in facts.evaluations:
        yield "- The validation images chose the epoch and the temperature, so their numbers flatter a little."
    table = facts.evaluations["validation"].per_class
    if few := tuple(table["class"][table["support"] < FEW_IMAGES]):
        yield f"- Fewer than {FEW_IMAGES} validation images, so numbers that are mostly luck: {class_list(few)}."


def use(facts: CardFacts) -> Iterator[str]:
    options = facts.options
    uri = "models:/m-…"
    if options.registered_model_name:
        uri = f"models:/{presentable(options.registered_model_name)}" + (
            f"@{options.alias}" if options.alias else "/VERSION"
        )
    yield "### Use"
    yield "```sh"
    yield f"mlflow-resnet score --model-uri {shlex.quote(uri)} --image-dir FOLDER --output scored.parquet"
    yield f"mlflow models serve --model-uri {shlex.quote(uri)} --env-manager local"
    yield "```"
    call = f'mlflow.pyfunc.load_model("{uri}").predict("FOLDER")'
    yield f"In Python: {code(call)}"


def repeat(facts: CardFacts) -> Iterator[str]:
    yield "### Repeat"
    yield "```sh"
    yield facts.options.command()
    yield "```"
    commit = resolve_tags().get(MLFLOW_GIT_COMMIT)
    versions = [f"mlflow_resnet {__version__}" + (f" at commit {commit}" if commit else "")]
    versions += [f"{name.replace('_', ' ')} {value}" for name, value in facts.environment.items()]
    yield f"With {', '.join(versions)}."


def headline_tags(evaluations: Mapping[str, Evaluation]) -> dict[str, str]:
    """The numbers that a person compares versions by, with intervals, as tags of a version."""
    return {
        name_of(name, context): f"{found.metrics[name]:.4f} [{low:.4f}, {high:.4f}]"
        for context, found in evaluations.items()
        for name, (low, high) in found.intervals.items()
        if name != "log_loss"  # that of the run is the one before calibration
    }


def sweep_card(
    options: SweepOptions, study: str, trials: int, best: int, value: float, values: Mapping[str, Any]
) -> str:
    """Args: best: number of the best trial; value: its `best_metric`; values: option -> value."""
    rows = "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in values.items())
    return f"""## Sweep of {options.architecture}: {options.best_metric} {value:.4f}

The best of {trials} trials is trial {best}:

| option | value |
|---|---|
{rows}

The trials are the runs below this one; compare them in a parallel-coordinates plot of the options above against \
`best_{options.best_metric}`. Optuna's study is {code(study)}.
"""
