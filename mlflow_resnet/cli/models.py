"""Commands that make models, use them and measure them."""

from __future__ import annotations

import click

from mlflow_resnet import options
from mlflow_resnet.cli.group import cli, command
from mlflow_resnet.io.console import is_first


@command(
    options.TrainOptions,
    "  mlflow-resnet train --train-dir flowers --architecture resnet50 --epochs 10 \\\n"
    "      --registered-model-name flowers --alias champion",
)
def train(given: options.TrainOptions) -> None:
    """Train a ResNet on folders of images; log the run and the model; register it if a name is given."""

    from mlflow_resnet.runs.training import summarize_train
    from mlflow_resnet.verbs.train import train

    result = train(given)
    if is_first():
        click.echo(summarize_train(result, given))


@cli.command()
@click.argument("directory")
def sync(directory: str) -> None:
    """Deliver what a training could not: run, artifacts, model and registration. DIRECTORY is its checkpoint folder."""

    from mlflow_resnet.verbs.sync import summarize_sync, sync

    click.echo(summarize_sync(sync(directory)))


@command(options.FindLrOptions, "  mlflow-resnet find-lr --train-dir flowers --architecture resnet50")
def find_lr(given: options.FindLrOptions) -> None:
    """Look for a learning rate: train on some batches at rising rates and log how the loss changes."""

    from mlflow_resnet.verbs.find_lr import find_lr, summarize_find_lr

    click.echo(summarize_find_lr(find_lr(given)))


@command(
    options.SweepOptions,
    "  mlflow-resnet sweep --train-dir flowers --architecture resnet50 --trials 30 --sweep-minutes 120 \\\n"
    "      --registered-model-name flowers\n"
    "\b\nA search space, for --search-space FILE:\n"
    "  learning_rate: {low: 1e-4, high: 0.1, log: true}\n"
    "  batch_size: {low: 16, high: 64, step: 16}\n"
    "  optimizer: [sgd, adamw]",
)
def sweep(given: options.SweepOptions) -> None:
    """Search for the best options: many trainings, each a child run of one run; train with the best once more.

    The same command goes on where it stopped. Several of them share the work.
    """

    from mlflow_resnet.verbs.sweep import summarize_sweep, sweep

    click.echo(summarize_sweep(sweep(given), given))


@command(
    options.ScoreOptions,
    "  mlflow-resnet score --model-uri models:/flowers@champion --image-dir new-photos --output scored.parquet",
)
def score(given: options.ScoreOptions) -> None:
    """Score every image below a directory, or in a list, to a Parquet, CSV or JSONL file, one row per image."""

    from mlflow_resnet.verbs.score import score, summarize_score

    click.echo(summarize_score(score(given)))


@command(options.ServeOptions, "  mlflow-resnet serve models:/flowers@champion --follow --workers 2")
def serve(given: options.ServeOptions) -> None:
    """Serve a registered version over HTTP, like mlflow models serve; every answer names the version.

    MODEL_URI is a version, models:/NAME/3, or an alias, models:/NAME@ALIAS.
    """

    from mlflow_resnet.verbs.serve import serve

    serve(given)


@command(options.EvaluateOptions, "  mlflow-resnet evaluate --model-uri models:/flowers/2 --image-dir flowers-test")
def evaluate(given: options.EvaluateOptions) -> None:
    """Measure a model on folders of images: accuracy, precision, recall, F1, log loss, per class and on average."""

    from mlflow_resnet.verbs.evaluate import evaluate, summarize_evaluate

    click.echo(summarize_evaluate(evaluate(given)))


@cli.command()
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--on",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "test", "evaluation", "validation"]),
    help="which images; auto: the first of these that all runs have",
)
def compare(runs: tuple[str, ...], on: str) -> None:
    """Compare runs of train or evaluate on the images that all of them predicted. RUNS are run ids.

    The first is compared with each other one by McNemar's test: could the difference be luck?
    """

    from mlflow_resnet.verbs.compare import compare, summarize_compare

    click.echo(summarize_compare(compare(runs, on)))


@command(
    options.ExplainOptions,
    "  mlflow-resnet explain --model-uri models:/flowers@champion --image-dir new-photos --output-dir explained",
)
def explain(given: options.ExplainOptions) -> None:
    """Write each image with a heat map of what speaks for its most probable class, and a table. Needs captum."""

    from mlflow_resnet.verbs.explain import explain, summarize_explain

    click.echo(summarize_explain(explain(given)))


@command(
    options.ExportOptions,
    "  mlflow-resnet export --model-uri models:/flowers@champion --format openvino --precision int8 \\\n"
    "      --output-dir exported --image-dir flowers-test --calibration-dir flowers",
)
def export(given: options.ExportOptions) -> None:
    """Write a model that takes uint8 pictures, for other engines and programs; compare its answers with the model's.

    int8 is refused if it loses more than half a point of accuracy.
    """

    from mlflow_resnet.verbs.export import export, summarize_export

    click.echo(summarize_export(export(given)))


@command(options.DemoOptions, "  mlflow-resnet demo")
def demo(given: options.DemoOptions) -> None:
    """Train on 1,797 handwritten digits, register the model, score the held-out ones. Under 3 minutes on two cores."""

    from mlflow_resnet.verbs.demo import demo, summarize_demo

    click.echo(summarize_demo(demo(given), given))
