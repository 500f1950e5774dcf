"""Exceptions of others, in a few words for the sentences of ours."""

from __future__ import annotations

import errno
import os
import re

from mlflow_resnet.io.text.characters import presentable

MAX_REASON_CHARACTERS = 600  # so many MLflow and its like need to say what is wrong and what helps
SENTENCE_END = re.compile(r"(?<=[.!?;]) (?=[^a-z])")
COLOR_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # as some libraries have them in their messages


def os_reason(error: OSError) -> str:
    """Returns the operating system's reason without the path, such as "permission denied"."""
    if error.errno == errno.ENOENT:
        return "no such file"
    return (os.strerror(error.errno) if error.errno else one_line(error)).lower()  # pyarrow has words of its own


def one_line(error: Exception, most: int = MAX_REASON_CHARACTERS) -> str:
    """Returns the message of any exception, or its type's name, as one printable line.

    Messages about HTTP begin with the address and end with what happened.
    """
    text = presentable(" ".join(COLOR_CODES.sub("", str(error)).split()))
    for introduction in ("failed with exception ", "Caused by "):
        text = text.rpartition(introduction)[2]
    return shorten_text(text, most) or type(error).__name__


def shorten_text(text: str, most: int) -> str:
    """Shortens a text to `most` characters, keeping the first and the last whole sentences."""
    if len(text) <= most:
        return text
    first, *sentences = SENTENCE_END.split(text)
    if len(first) > most - 2:
        return f"{first[: most - 2].rpartition(' ')[0] or first[: most - 2]} …"
    last = ""
    while sentences and len(first) + len(longer := f" {sentences.pop()}{last}") <= most - 2:
        last = longer
    return f"{first} …{last}"
