"""Text as a part of Markdown, from which it cannot break out."""

from __future__ import annotations

import re

from mlflow_resnet.io.text.characters import presentable

ENDS_CODE = re.compile(r"[`|<>]")  # a code span, a cell of a table; and what some renderers take for HTML all the same
MEANS_SOMETHING = re.compile(r"[\\`*\[\]|~]|\b_|_\b|(?<=\W)_")  # in the middle of a line
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def code(text: object) -> str:
    """A code span, also in a cell of a table. What could end it is written as `\\x60`."""
    inside = ENDS_CODE.sub(lambda found: f"\\x{ord(found[0]):02x}", presentable(text))
    return f"`{inside or ' '}`"


def plain(text: object) -> str:
    """Text that is read as it is, in the middle of a line."""
    escaped = MEANS_SOMETHING.sub(lambda found: f"\\{found[0]}", presentable(text))
    return "".join(ENTITIES.get(each, each) for each in escaped)
