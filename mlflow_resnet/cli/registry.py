"""Commands that decide which version is the champion."""

from __future__ import annotations

import click

from mlflow_resnet import options
from mlflow_resnet.cli.group import cli, command


@command(
    options.PromoteOptions,
    "  mlflow-resnet promote --model-uri models:/flowers/3 --image-dir flowers-test --max-drop 0.005",
)
def promote(given: options.PromoteOptions) -> None:
    """Move the champion alias to a version that is not worse than the present champion on the same images.

    Exits with 3 if it is worse; the alias then stays where it is.
    """

    from mlflow_resnet.verbs.promote import promote, summarize_promote

    click.echo(summarize_promote(promote(given), given))


@command(options.RollbackOptions, "  mlflow-resnet rollback --name flowers")
def rollback(given: options.RollbackOptions) -> None:
    """Point the champion alias to the champion before. Exits with 3 if there is none."""

    from mlflow_resnet.verbs.rollback import rollback, summarize_rollback

    click.echo(summarize_rollback(rollback(given)))


@cli.command()
@click.option("--name", required=True, help="registered model, such as digits")
@click.option("--alias", default="", help="only this one; empty: all")
def history(name: str, alias: str) -> None:
    """Print who moved an alias, when, from where and to where."""

    from mlflow_resnet.verbs.history import history, summarize_history

    click.echo(summarize_history(history(name, alias), name))


@cli.command()
@click.option("--name", required=True, help="registered model, such as digits")
@click.option("--alias", default="champion", show_default=True)
def champion(name: str, alias: str) -> None:
    """Print which version is champion, since when, and what it was measured to be."""

    from mlflow_resnet.verbs.champion import champion, summarize_champion

    click.echo(summarize_champion(champion(name, alias)))


@command(
    options.ShadowOptions,
    "  mlflow-resnet shadow --champion models:/flowers@champion --challenger models:/flowers@challenger \\\n"
    "      --image-dir new-photos",
)
def shadow(given: options.ShadowOptions) -> None:
    """Predict images with two models and show where their labels differ. The images need no labels."""

    from mlflow_resnet.verbs.shadow import shadow, summarize_shadow

    click.echo(summarize_shadow(shadow(given)))
