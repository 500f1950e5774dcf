"""Exceptions of others, in a few words for the sentences of ours."""

from __future__ import annotations

import errno
import os
import re

from mlflow_resnet.text.characters import presentable

COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # as some libraries have them in their messages


def os_reason(error: OSError) -> str:
    """Why the operating system refused, without the path: "permission denied"."""
    if error.errno == errno.ENOENT:
        return "no such file"
    return (os.strerror(error.errno) if error.errno else one_line(error)).lower()  # pyarrow has words of its own


def one_line(error: Exception) -> str:
    """The message of any exception, or its type's name, on one line of at most 120 characters that can be shown.

    Messages about HTTP begin with the address and end with what happened.
    """
    text = presentable(" ".join(COLORS.sub("", str(error)).split()))
    for introduction in ("failed with exception ", "Caused by "):
        text = text.rpartition(introduction)[2]
    return text[:120] or type(error).__name__
