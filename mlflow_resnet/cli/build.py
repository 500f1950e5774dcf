"""An options class becomes a command of the command line: an option for each of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from importlib import import_module
from inspect import cleandoc
from typing import Any, get_args, get_origin, get_type_hints

import click

from mlflow_resnet._version import __version__
from mlflow_resnet.io.console import is_first
from mlflow_resnet.options import VERBS, options_class
from mlflow_resnet.options.base import AUTO, Options

TYPES: dict[type, click.ParamType] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}
VERB_NAMES = [verb.replace("_", "-") for verb in VERBS]
SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    "token_normalize_func": lambda token: token.replace("_", "-"),  # MLflow passes --train_dir
}
OTHER_OPTIONS = "Options"  # the section of those without another


class OrAuto(click.ParamType):
    """A value of another type, or `auto`, which leaves it to the recipe."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, f"{kind.name}|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == AUTO else self.kind.convert(value, param, ctx)


class Verb(click.Command):
    """The command of one verb, with its options in sections."""

    def __init__(self, kind: type[Options], **settings: Any) -> None:
        super().__init__(**settings)
        self.sections = {each.name: each.metadata["section"] for each in fields(kind)}  # each begins at its option

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        section = OTHER_OPTIONS
        for parameter in self.get_params(ctx):
            section = self.sections.get(parameter.name or "", OTHER_OPTIONS) or section
            if row := parameter.get_help_record(ctx):
                rows.setdefault(section, []).append(row)
        for section, records in rows.items():
            with formatter.section(section):
                formatter.write_dl(records)


class Verbs(click.Group):
    """All verbs. What one may be asked is imported when somebody asks for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return VERB_NAMES

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return build_command(cmd_name.replace("-", "_")) if cmd_name in VERB_NAMES else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0].replace("_", "-")
        if name not in VERB_NAMES and not name.startswith("-"):
            raise click.UsageError(f"there is no verb {name}{suggest_name(name, VERB_NAMES)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, invoke_without_command=True, context_settings=SETTINGS)
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Train torchvision ResNets on folders of images with MLflow; register, score, promote and serve them."""
    if not context.invoked_subcommand:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def build_command(verb: str) -> click.Command:
    """Build the command of a verb: its options class parses, its function works, its summary is printed."""
    kind = options_class(verb)
    hints = get_type_hints(kind)
    lines = ["\b", "Example:"]  # \b keeps click from filling a paragraph
    lines += [f"  {line}" if line else "\n\b" for line in cleandoc(kind.examples).split("\n")]
    return Verb(
        kind,
        name=kind.verb,
        callback=lambda **values: run_verb(verb, kind, values),
        params=[build_parameter(each, hints[each.name]) for each in fields(kind)],
        help=kind.__doc__,
        epilog="\n".join(lines),
        context_settings=SETTINGS,
    )


def run_verb(verb: str, kind: type[Options], values: Mapping[str, Any]) -> None:
    """Call the function of a verb and print the summary of its result, in the first of several processes."""
    if problems := kind.find_problems(values):
        raise click.ClickException("; ".join(problems))
    options = kind(**values)
    module = import_module(f"mlflow_resnet.verbs.{verb}")
    result = getattr(module, verb)(options)
    summarize = getattr(module, f"summarize_{verb}", None)  # `serve` has none
    if summarize and is_first():
        click.echo(summarize(result, options))


def build_parameter(each: Field[Any], hint: Any) -> click.Parameter:
    """Build the option of one field. Choices are left to the options class, which reports all problems at once."""
    if each.metadata["is_argument"]:
        several = get_origin(hint) is tuple
        return click.Argument([each.name], type=find_type(hint), nargs=-1 if several else 1, required=True)
    choices = each.metadata["choices"]
    flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if hint is bool else {}
    required = each.default is MISSING
    default: dict[str, Any] = {} if required else {"default": each.default, "show_default": each.default != ""}
    return click.Option(
        ["--" + each.name.replace("_", "-")],
        type=find_type(hint),
        metavar="true|false" if hint is bool else "|".join(choices) if 0 < len(choices) < 4 else None,
        help=each.metadata["help"] + (f": {', '.join(choices)}" if len(choices) >= 4 else ""),
        required=required,
        **flag,
        **default,
    )


def find_type(hint: Any) -> click.ParamType:
    """Return what parses a field annotated with a plain type, several of one, or one `| Auto`."""
    if hint in TYPES:
        return TYPES[hint]
    plain = TYPES[get_args(hint)[0]]
    return plain if get_origin(hint) is tuple else OrAuto(plain)


def suggest_name(name: str, names: list[str]) -> str:
    """Return `; did you mean …?` if one of `names` is close."""
    close = get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""
