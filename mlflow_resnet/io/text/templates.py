"""Descriptions in Markdown and pages in HTML from templates, which lie beside the code as `*.md.jinja`, `*.html.jinja`.

All that a template shows is escaped for where it stands, unless a filter has made markup of it.
"""

from __future__ import annotations

import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context, select_autoescape
from jinja2.nodes import EvalContext
from markupsafe import Markup

from mlflow_resnet.io.text.characters import printable
from mlflow_resnet.io.text.markdown import code, plain


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


def mark_code(text: object) -> Markup:
    """A code span of Markdown."""
    return Markup(code(text))


def quote_word(text: str) -> Markup:
    """A word of a shell's command, for a block of code."""
    return Markup(shlex.quote(text))
