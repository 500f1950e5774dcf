"""How an options class becomes a command of the command line: an option for each of its fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

import click

from mlflow_resnet import options

TYPES: dict[type, click.ParamType] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}


class OrAuto(click.ParamType):
    """A value of another type, or `auto`, which leaves it to the recipe."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, f"{kind.name}|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == options.AUTO else self.kind.convert(value, param, ctx)


def command(
    group: click.Group, kind: type[options.Options], example: str
) -> Callable[[Callable[[Any], None]], click.Command]:
    """Makes a command of `group` from a function that takes `kind`."""

    def decorate(function: Callable[[Any], None]) -> click.Command:
        new = click.Command(
            kind.verb,
            callback=lambda **values: function(kind(**values)),
            params=[click_option(field, get_type_hints(kind)[field.name]) for field in fields(kind)],
            help=function.__doc__,
            epilog=f"\b\nExample:\n{example}",
        )
        group.add_command(new)
        return new

    return decorate


def click_type(kind: Any) -> click.ParamType:
    """What parses values of a field that is annotated with `kind`: a plain type, or one `| Auto`."""
    return TYPES[kind] if kind in TYPES else OrAuto(TYPES[get_args(kind)[0]])


def click_option(field: Any, kind: Any) -> click.Parameter:
    """The option of one field. Choices are left to the options class, which reports all problems at once."""
    if field.metadata["is_argument"]:
        return click.Argument([field.name], type=click_type(kind))
    choices = field.metadata["choices"]
    flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind is bool else {}
    metavar = "true|false" if kind is bool else "|".join(choices) if 0 < len(choices) < 4 else None
    help_text = field.metadata["help"] + (f": {', '.join(choices)}" if len(choices) >= 4 else "")
    required = field.default is MISSING
    default = {} if required else {"default": field.default, "show_default": field.default != ""}
    return click.Option(
        ["--" + field.name.replace("_", "-")],
        type=click_type(kind),
        metavar=metavar,
        help=help_text,
        required=required,
        **flag,
        **default,
    )
