"""Descriptions in Markdown and pages in HTML from templates, which lie beside the code as `*.md.jinja`, `*.html.jinja`.

All that a template shows is escaped for where it stands, unless a filter has made markup of it.
"""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context, select_autoescape
from jinja2.nodes import EvalContext
from markupsafe import Markup

from mlflow_resnet.io.text.characters import presentable, printable

ENDS_CODE = re.compile(r"[`|<>]")  # a code span, a cell of a table; and what some renderers take for HTML all the same
MEANS_SOMETHING = re.compile(r"[\\`*\[\]|~]|\b_|_\b|(?<=\W)_")  # in the middle of a line
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def render_template(path: str, **facts: Any) -> str:
    """Args: path: of the template, inside of the package."""
    return load_environment().get_template(path).render(facts)


@cache
def load_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mlflow_resnet", ""),
        autoescape=select_autoescape(["html.jinja"], default=False),
        finalize=escape_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=format, code=mark_code, quote=quote_word)
    return environment


@pass_eval_context
def escape_value(context: EvalContext, value: object) -> str:
    """Escapes for Markdown; for HTML only what commands a terminal, as Jinja itself escapes the rest."""
    if isinstance(value, Markup):
        return value
    return printable(str(value)) if context.autoescape else plain(value)


def code(text: object) -> str:
    """A code span, also in a cell of a table. What could end it is written as `\\x60`."""
    inside = ENDS_CODE.sub(lambda found: f"\\x{ord(found[0]):02x}", presentable(text))
    return f"`{inside or ' '}`"


def plain(text: object) -> str:
    """Text that is read as it is, in the middle of a line."""
    escaped = MEANS_SOMETHING.sub(lambda found: f"\\{found[0]}", presentable(text))
    return "".join(ENTITIES.get(each, each) for each in escaped)


def mark_code(text: object) -> Markup:
    """A code span of Markdown."""
    return Markup(code(text))


def quote_word(text: str) -> Markup:
    """A word of a shell's command, for a block of code."""
    return Markup(shlex.quote(text))
