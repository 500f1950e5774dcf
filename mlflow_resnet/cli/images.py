"""Commands that get images in."""

from __future__ import annotations

import click

from mlflow_resnet import options
from mlflow_resnet.cli.group import command


@command(options.ConvertOptions, "  mlflow-resnet convert --source photos.zip --output-dir flowers")
def convert(given: options.ConvertOptions) -> None:
    """Make an image directory from folders, archives, S3, tables or annotations; unreadable files are left out.

    Repeated, it goes on where it stopped, adds what is new, moves what has another label, and removes what a table does
    not name any more.
    """

    from mlflow_resnet.verbs.convert import convert, summarize_convert

    click.echo(summarize_convert(convert(given), given.output_dir))


@command(
    options.SplitOptions,
    "  mlflow-resnet split --image-dir flowers --train-dir flowers-train --val-dir flowers-val --fraction 0.8",
)
def split(given: options.SplitOptions) -> None:
    """Copy an image directory into two or three parts, with the same share of every class in each.

    Pictures that are the same, and groups such as all pictures of one patient, stay on one side.
    """

    from mlflow_resnet.verbs.split import split, summarize_split

    click.echo(summarize_split(split(given)))


@command(
    options.AuditOptions,
    "  mlflow-resnet audit --train-dir flowers/train --val-dir flowers/val --fail-on leak,conflict,unreadable",
)
def audit(given: options.AuditOptions) -> None:
    """Look for leaks, duplicates, conflicting labels, bad classes and bad pictures; log a report with thumbnails.

    Exits with 2 if it finds what --fail-on names. Repeated, it reads only what has changed.
    """

    from mlflow_resnet.verbs.audit import audit, summarize_audit

    click.echo(summarize_audit(audit(given)))


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

    from mlflow_resnet.verbs.transform import summarize_transform, transform

    click.echo(summarize_transform(transform(given), given.output_dir))
