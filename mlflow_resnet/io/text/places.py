"""Where a text says that a file or folder is: on this machine, in S3, or where nothing here can reach."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

S3 = "s3://"
SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")  # two letters at least: C:/ is a drive
FILE_URI = re.compile("file:(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)


def local_path(text: str) -> str:
    """The path that `file:///path` names; any other text as it is."""
    if not (found := FILE_URI.fullmatch(text)):
        return text
    try:
        path = os.fsdecode(unquote_to_bytes(os.fsencode(found[1])))
    except UnicodeEncodeError:  # half of a character
        return text
    return text if "\0" in path else path


def is_remote(uri: str) -> bool:
    """Whether `uri` is in S3."""
    return uri.startswith(S3)


def result_place(output: str, name: str = "") -> Path | str:
    """Where the output, or `name` in it, is: a path, or text if it is in S3."""
    if not is_remote(output):
        return Path(output, name)
    return f"{output.rstrip('/')}/{name}" if name else output


def place_problem(text: str, in_s3: bool = True) -> str:
    """Why nothing can be read or written at `text`, by its scheme alone; empty if it has none that is in the way.

    Args:
        in_s3: whether it may be in S3 too.
    """
    scheme = SCHEME.match(local_path(text))
    if not scheme or (in_s3 and is_remote(text)):
        return ""
    if not in_s3:
        return "is not on this machine; give a path or file:///path"
    return f"has the scheme {scheme[1]}:, which is not supported; give a path, file:///path or {S3}bucket/prefix"
