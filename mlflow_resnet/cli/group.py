"""The group that all commands belong to."""

from __future__ import annotations

from functools import partial

import click

from mlflow_resnet._version import __version__
from mlflow_resnet.cli.parameters import command as command_in


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def cli() -> None:
    """Train torchvision ResNets on folders of images with MLflow; register, score, promote and serve them."""


command = partial(command_in, cli)


command = partial(command_in, cli)
