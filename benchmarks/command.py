"""Options that all benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])
DATA_DIR = Path(__file__).parent / ".data"


def common(command: Function) -> Function:
    """--data-dir, --quick, --repetitions, --device and --ours."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def parsed_options(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Each NAME=VALUE as an option of mlflow_resnet's train."""
    if not texts:
        return {}
    from ours import parsed_option  # takes seconds to import

    try:
        return dict(parsed_option(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


OPTIONS = [
    click.option("--data-dir", type=click.Path(path_type=Path), default=DATA_DIR, help="where data sets are kept"),
    click.option("--quick", is_flag=True, help="a smoke run of seconds, whose numbers mean nothing"),
    click.option("--repetitions", default=3, show_default=True, help="alternations, or seeds where the seed matters"),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
    click.option("--ours", multiple=True, metavar="NAME=VALUE", callback=parsed_options, help="an option for ours"),
]
