"""The command line: parse, one call, print. Options come from `mlflow_resnet.options`; torch is imported on use."""

# ruff: noqa: E402
from __future__ import annotations

import os

# A thread of torch that waits must sleep and not spin: on a busy machine spinning made training several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded

import signal
import sys
from functools import partial
from typing import NoReturn

import click
from mlflow.exceptions import MlflowException

from mlflow_resnet import options, summaries
from mlflow_resnet._version import __version__
from mlflow_resnet.cli_options import command as command_in
from mlflow_resnet.console import is_first
from mlflow_resnet.errors import SIGINT_EXIT_CODE, SIGTERM_EXIT_CODE, MlflowResnetError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def cli() -> None:
    """Train torchvision ResNets on folders of images with MLflow; register, score, promote and serve them."""


command = partial(command_in, cli)


@command(
    options.TrainOptions,
    "  mlflow-resnet train --train-dir flowers --architecture resnet50 --epochs 10 \\\n"
    "      --registered-model-name flowers --alias champion",
)
def train(given: options.TrainOptions) -> None:
    """Train a ResNet on folders of images; log the run and the model; register it if a name is given."""
    from mlflow_resnet import pipeline

    result = pipeline.train(given)
    if is_first():
        click.echo(summaries.trained(result, given))


@cli.command()
@click.argument("directory")
def sync(directory: str) -> None:
    """Deliver what a training could not: run, artifacts, model and registration. DIRECTORY is its checkpoint folder."""
    from mlflow_resnet import pipeline

    click.echo(summaries.synchronized(pipeline.sync(directory)))


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
    from mlflow_resnet.tracking.comparison import compare

    click.echo(summaries.compared(compare(runs, on)))


@command(options.FindLrOptions, "  mlflow-resnet find-lr --train-dir flowers --architecture resnet50")
def find_lr(given: options.FindLrOptions) -> None:
    """Look for a learning rate: train on some batches at rising rates and log how the loss changes."""
    from mlflow_resnet.tuning.find_lr import find_lr

    click.echo(summaries.found_lr(find_lr(given)))


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
    from mlflow_resnet.tuning.sweep import sweep

    click.echo(summaries.swept(sweep(given), given))


@command(
    options.ScoreOptions,
    "  mlflow-resnet score --model-uri models:/flowers@champion --image-dir new-photos --output scored.parquet",
)
def score(given: options.ScoreOptions) -> None:
    """Score every image below a directory to a Parquet, CSV or JSONL file, one row per image."""
    from mlflow_resnet import pipeline

    click.echo(summaries.scored(pipeline.score(given)))


@command(options.ServeOptions, "  mlflow-resnet serve models:/flowers@champion --follow --workers 2")
def serve(given: options.ServeOptions) -> None:
    """Serve a registered version over HTTP, like mlflow models serve; every answer names the version.

    MODEL_URI is a version, models:/NAME/3, or an alias, models:/NAME@ALIAS.
    """
    from mlflow_resnet.serving.server import serve

    serve(given)


@command(options.EvaluateOptions, "  mlflow-resnet evaluate --model-uri models:/flowers/2 --image-dir flowers-test")
def evaluate(given: options.EvaluateOptions) -> None:
    """Measure a model on folders of images: accuracy, precision, recall, F1, log loss, per class and on average."""
    from mlflow_resnet import pipeline

    click.echo(summaries.evaluated(pipeline.evaluate(given)))


@command(
    options.PromoteOptions,
    "  mlflow-resnet promote --model-uri models:/flowers/3 --image-dir flowers-test --max-drop 0.005",
)
def promote(given: options.PromoteOptions) -> None:
    """Move the champion alias to a version that is not worse than the present champion on the same images.

    Exits with 3 if it is worse; the alias then stays where it is.
    """
    from mlflow_resnet import pipeline

    click.echo(summaries.promoted(pipeline.promote(given), given.alias))


@command(options.ConvertOptions, "  mlflow-resnet convert --source photos.zip --output-dir flowers")
def convert(given: options.ConvertOptions) -> None:
    """Make an image directory from folders, archives, S3, tables or annotations; unreadable files are left out.

    Repeated, it goes on where it stopped, and adds what is new.
    """
    from mlflow_resnet import curation

    click.echo(summaries.converted(curation.convert(given), given.output_dir))


@command(
    options.SplitOptions,
    "  mlflow-resnet split --image-dir flowers --train-dir flowers-train --val-dir flowers-val --fraction 0.8",
)
def split(given: options.SplitOptions) -> None:
    """Copy an image directory into two or three parts, with the same share of every class in each.

    Pictures that are the same, and groups such as all pictures of one patient, stay on one side.
    """
    from mlflow_resnet import curation

    click.echo(summaries.divided(curation.split(given)))


@command(
    options.AuditOptions,
    "  mlflow-resnet audit --train-dir flowers/train --val-dir flowers/val --fail-on leak,conflict,unreadable",
)
def audit(given: options.AuditOptions) -> None:
    """Look for leaks, duplicates, conflicting labels, bad classes and bad pictures; log a report with thumbnails.

    Exits with 2 if it finds what --fail-on names. Repeated, it reads only what has changed.
    """
    from mlflow_resnet import curation

    click.echo(summaries.audited(curation.audit(given)))


@command(
    options.TransformOptions,
    "  mlflow-resnet transform --image-dir flowers --output-dir flowers-224 --transformation steps.json \\\n"
    "      --mode inference\n"
    "\b\nA transformation:\n"
    '  [{"name": "Resize", "size": 256}, {"name": "RandomRotation", "degrees": 10}]',
)
def transform(given: options.TransformOptions) -> None:
    """Write what a list of torchvision's transformations makes of each image, as PNGs.

    Training and scoring do not need it: they transform images as they read them.
    """
    from mlflow_resnet import curation

    click.echo(summaries.transformed(curation.transform(given), given.output_dir))


@command(
    options.ExplainOptions,
    "  mlflow-resnet explain --model-uri models:/flowers@champion --image-dir new-photos --output-dir explained",
)
def explain(given: options.ExplainOptions) -> None:
    """Write each image with a heat map of what speaks for its most probable class, and a table. Needs captum."""
    from mlflow_resnet import explaining

    click.echo(summaries.explained(explaining.explain(given)))


@command(options.DemoOptions, "  mlflow-resnet demo")
def demo(given: options.DemoOptions) -> None:
    """Train on 1,797 handwritten digits, register the model, score the held-out ones. Under 3 minutes on two cores."""
    from mlflow_resnet import digits_demo

    click.echo(summaries.demonstrated(digits_demo.demo(given), given))


def main() -> NoReturn:
    """Runs the command line, and exits.

    0: done, 2: bad input, 3: promotion refused, 4: not delivered, 5: diverged, 130 and 143: signals.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", SIGINT_EXIT_CODE)
    except MlflowResnetError as error:
        if error.is_shared and not is_first():
            sys.exit(error.exit_code)
        fail(error.message, error.exit_code)
    except MlflowException as error:
        fail(error.message.split("\n")[0], MlflowResnetError.exit_code)
    sys.exit(0)


def fail(message: str, exit_code: int) -> NoReturn:
    """One line on stderr, and the exit code."""
    one_line = " ".join(message.split("\n"))
    print(f"mlflow-resnet: {one_line}", file=sys.stderr, flush=True)
    sys.exit(exit_code)
