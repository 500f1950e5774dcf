"""Text that is safe to show on a terminal."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mlflow_resnet.io.text.credentials import without_credentials

if TYPE_CHECKING:
    import pandas as pd

OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: control, format (bidi and others), surrogates, line ends
JOINERS = "\u200c\u200d"  # of category Cf, but words of many languages and emojis are written with them
LISTED = 20  # how many names a message lists before it says "and N more"


def presentable(text: object) -> str:
    """What a person may be shown of text from anywhere: `printable`, and without credentials."""
    return printable(without_credentials(str(text)))


def printable(text: str | os.PathLike[str]) -> str:
    """Text on one line, in which nothing is an order to a terminal: what would be, is written as `\\x1b` or `\\n`."""
    text = encodable(text)
    if text.isprintable():
        return text
    return "".join(escape(each) if is_obeyed(each) else each for each in text)


def in_lines(parts: Iterable[str]) -> str:
    """Returns each part on a line of its own, escaped."""
    return "\n".join(map(presentable, parts))


def join_names(names: Iterable[object], limit: int = LISTED) -> str:
    """`names` joined with commas, cut after `limit` of them."""
    texts = [str(name) for name in names]
    more = f", and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def format_rows(table: pd.DataFrame) -> list[str]:
    """The lines of a table with its header; pandas itself escapes line ends in cells."""
    return table.to_string(index=False, float_format="{:.4f}".format).split("\n")


def encodable(text: str | os.PathLike[str]) -> str:
    """Text that any encoder takes, as files of data need it: bytes of a path that are not UTF-8 become `\\xNN`.

    Where the locale has another encoding for paths, those that are UTF-8 become what they are.
    """
    text = os.fsdecode(text)
    if is_utf8(text):
        return text
    with suppress(UnicodeError):
        return text.encode(errors="surrogateescape").decode()
    return "".join(escape(each) if unicodedata.category(each) == "Cs" else each for each in text)


def all_encodable(facts: Any) -> Any:
    """Facts that JSON can hold, with every text in them as `encodable` has it."""
    if isinstance(facts, str):
        return encodable(facts)
    if isinstance(facts, Mapping):
        return {encodable(name): all_encodable(value) for name, value in facts.items()}
    return [all_encodable(each) for each in facts] if isinstance(facts, list | tuple) else facts


def is_utf8(text: str) -> bool:
    """Returns whether a text can be encoded as UTF-8, unlike undecodable bytes of a path."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in OBEYED and character not in JOINERS


def escape(character: str) -> str:
    """The character as Python writes it; one that stands for a byte of a path, as the byte."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
