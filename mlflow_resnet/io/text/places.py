"""Interprets places of files and folders: local, in S3, or unsupported."""

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
    """Returns the place of the output, or of `name` in it: a path, or text in S3."""
    if not is_remote(output):
        return Path(output, name)
    return f"{output.rstrip('/')}/{name}" if name else output


def place_problem(text: str, in_s3: bool = True) -> str:
    """Returns why the scheme of `text` is not supported (S3's may be excluded); empty if it is, or there is none."""
    scheme = SCHEME.match(local_path(text))
    if not scheme or (in_s3 and is_remote(text)):
        return ""
    if not in_s3:
        return "is not on this machine; give a path or file:///path"
    return f"has the scheme {scheme[1]}:, which is not supported; give a path, file:///path or {S3}bucket/prefix"
