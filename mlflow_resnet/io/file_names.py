"""Checks untrusted names of indexes, archives, tables and buckets. None is used as a path before it is checked here.

What makes a name a path is `path_below`; what reads names of others asks `name_problem` at once, so that whatever
is behind it deals with names that lie below a directory.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from mlflow_resnet.errors import OutputError, printable
from mlflow_resnet.io.own_folders import BOOKKEEPING

MAX_PART_BYTES, MAX_NAME_BYTES = 255, 1024  # of what is between two "/", and of all; the former is that of file systems


def name_problem(name: object, windows: bool = os.name == "nt") -> str:
    """Returns why `name` cannot be the relative path of an image; empty if it can."""
    if problem := text_problem(name):
        return problem
    assert isinstance(name, str)
    if leads_out(name, windows):
        return "leads out of the directory"
    parts = name.split("/")
    if any(map(is_hidden, parts)):
        return "is hidden"
    if parts[0].casefold() in BOOKKEEPING:
        return f"begins as a file of ours, {parts[0].casefold()}"
    if len(os.fsencode(name)) > MAX_NAME_BYTES or any(len(os.fsencode(part)) > MAX_PART_BYTES for part in parts):
        return f"is too long; a file's name has at most {MAX_PART_BYTES} bytes, with its folders {MAX_NAME_BYTES}"
    return ""


def text_problem(text: object) -> str:
    """Returns why `text` cannot be a path; empty if it can."""
    if not isinstance(text, str) or not text:
        return "is no name"
    if "\0" in text:
        return "has a NUL"
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half of a character, which JSON can hold
        return "is not Unicode"
    return ""


def leads_out(name: str, windows: bool = os.name == "nt") -> bool:
    """Returns whether `name`, as a path, is not below its starting point."""
    if windows:  # there more is a separator, a drive, a stream, a device, or is dropped at the end
        parts = name.split("/")
        if any(sign in name for sign in "\\:") or any(part[-1:] in (".", " ") for part in parts):
            return True
        if any(PureWindowsPath(part).is_reserved() for part in parts):
            return True
    return any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name


def path_below(root: Path, name: str) -> Path:
    """The file `name` below `root`. Raises OutputError if it cannot be one, or it or a folder on the way is a link."""
    problem, path = name_problem(name), root
    for part in () if problem else name.split("/"):
        path = path / part
        if path.is_symlink():
            problem = "leads through a link"
    if problem:
        raise OutputError(root, f"refused to write {quote_name(name)}, which {problem}")
    return path


def quote_name(name: object) -> str:
    """A name that may be anything, for a message: at most 100 characters of it, in quotes."""
    text = ascii(name) if text_problem(name) else repr(printable(str(name)))
    return text if len(text) <= 100 else f"{text[:100]}…"


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is excluded from data sets by its name."""
    return name.startswith(".") or name == "__MACOSX"
