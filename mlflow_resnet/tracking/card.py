"""The Markdown descriptions that MLflow shows above a run, and beside a version of a registered model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from mlflow_resnet._version import __version__
from mlflow_resnet.evaluation.evaluation import Evaluation, prefix_metric
from mlflow_resnet.io.text.characters import presentable
from mlflow_resnet.io.text.templates import code, render_template
from mlflow_resnet.options.metric_names import HEADLINE
from mlflow_resnet.options.sweep import SweepOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.training.recipe import Recipe

MAX_LISTED_CLASSES = 20
MAX_RUN, MAX_VERSION = 8000, 5000  # characters that MLflow keeps of the description of a run, and of a version
FEW_IMAGES = 20  # of a class; its numbers are mostly luck
TEMPERATURE = "calibration/temperature"


@dataclass(frozen=True)
class CardFacts:
    """Everything that the description of a training shows.

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
    options, validation = facts.options, facts.evaluations["validation"]
    table = validation.per_class
    uri, commit = "models:/m-…", resolve_tags().get(MLFLOW_GIT_COMMIT)
    if options.registered_model_name:  # so far as it is known before it is registered
        which = f"@{options.alias}" if options.alias else "/VERSION"
        uri = f"models:/{presentable(options.registered_model_name)}{which}"
    versions = [f"mlflow_resnet {__version__}" + (f" at commit {commit}" if commit else "")]
    versions += [f"{name.replace('_', ' ')} {value}" for name, value in facts.environment.items()]
    card = render_template(
        "tracking/card.md.jinja",
        facts=facts,
        validation=validation,
        headline=HEADLINE,
        name_metric=prefix_metric,
        list_classes=list_classes,
        worst=table[table["support"] > 0].sort_values("recall", kind="stable").iloc[0],
        rare=tuple(table["class"][table["support"] < FEW_IMAGES]),
        few_images=FEW_IMAGES,
        uri=uri,
        versions=versions,
    )
    return cut_text(card, MAX_RUN)


def cut_text(text: str, most: int) -> str:
    """Whole lines of at most so many characters of a description, which ends with a note if there is more."""
    end = "\n\n… (cut; MLflow keeps no more)"
    return text if len(text) <= most else text[: most - len(end)].rpartition("\n")[0] + end


def list_classes(classes: Sequence[str]) -> Markup:
    """The names of the first classes as code spans, and how many more there are."""
    more = f" and {len(classes) - MAX_LISTED_CLASSES} more" if len(classes) > MAX_LISTED_CLASSES else ""
    return Markup(", ".join(map(code, classes[:MAX_LISTED_CLASSES])) + more)


def headline_tags(evaluations: Mapping[str, Evaluation]) -> dict[str, str]:
    """Returns the headline metrics with intervals as tags of a version."""
    return {
        prefix_metric(name, context): f"{found.metrics[name]:.4f} [{low:.4f}, {high:.4f}]"
        for context, found in evaluations.items()
        for name, (low, high) in found.intervals.items()
        if name != "log_loss"  # that of the run is the one before calibration
    }


def seeds_card(
    options: TrainOptions, values: Mapping[int, Mapping[str, float]], spreads: Mapping[str, Any], best_seed: int
) -> str:
    """Args: values: seed -> metrics; spreads: of each metric, what `measure_spread` returns."""
    names = (prefix_metric(name, context) for context in ("validation", "test") for name in HEADLINE)
    facts = {"options": options, "values": values, "spreads": spreads, "best_seed": best_seed}
    return render_template("tracking/seeds_card.md.jinja", shown=[name for name in names if name in spreads], **facts)


def sweep_card(
    options: SweepOptions, study: str, trials: int, best: int, value: float, values: Mapping[str, Any]
) -> str:
    """Args: best: number of the best trial; value: its `best_metric`; values: option -> value."""
    facts = {"options": options, "study": study, "trials": trials, "best": best, "value": value, "values": values}
    return render_template("tracking/sweep_card.md.jinja", **facts)
