"""Exceptions of others, in a few words for the sentences of ours."""

from __future__ import annotations

import errno


def os_reason(error: OSError) -> str:
    """Why the operating system refused, without the path: "permission denied"."""
    return "no such file" if error.errno == errno.ENOENT else (error.strerror or one_line(error)).lower()


def one_line(error: Exception) -> str:
    """The message of any exception, or its type's name, on one line of at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__
