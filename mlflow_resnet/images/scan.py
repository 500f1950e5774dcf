"""Reads every image of a directory once: which are bad, and what identifies the data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mlflow_resnet.errors import BadImagesError, InvalidDatasetError, InvalidImageError, listed, printable
from mlflow_resnet.images.decode import check, read_bytes
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.parallel import map_ordered


@dataclass(frozen=True)
class Scan:
    """`hashes`: name -> sha256 of the content of each readable image; `bad`: name -> why it cannot be read."""

    hashes: dict[str, str]
    bad: dict[str, str]


def scan(directory: LabeledDirectory, threads: int, on_image: Callable[[], None] | None = None) -> Scan:
    """Reads and decodes every image in full; calls `on_image` after each, in the caller's thread."""
    hashes: dict[str, str] = {}
    bad: dict[str, str] = {}
    for name, (sha256, reason) in zip(directory.names, map_ordered(_read, directory.paths, threads), strict=True):
        if reason:
            bad[name] = reason
        else:
            hashes[name] = sha256
        if on_image:
            on_image()
    return Scan(hashes, bad)


def digest_of(directory: LabeledDirectory, hashes: Mapping[str, str]) -> str:
    """16 hex digits that identify the classes, names and contents of `directory`, wherever it is.

    `hashes` are those of a scan that found all its images readable, or left the others out.
    """
    digest = _digest_of(directory.classes)
    for name in directory.names:
        digest.update(_digest_of([name, hashes[name]]).digest())
    return digest.hexdigest()[:16]


def apply_policy(directory: LabeledDirectory, found: Scan, on_bad_image: str) -> LabeledDirectory:
    """The directory without its bad images if `on_bad_image` is "skip"; BadImagesError if it is "error".

    InvalidDatasetError if nothing would be left.
    """
    if not found.bad:
        return directory
    if on_bad_image != "skip":
        raise BadImagesError(directory.root, found.bad)
    if len(found.bad) == len(directory):
        reasons = listed(f"{printable(name)} ({reason})" for name, reason in found.bad.items())
        raise InvalidDatasetError(directory.root, f"none of its {len(directory)} images can be read: {reasons}")
    return directory.without(found.bad)


def _read(path: str) -> tuple[str, str]:
    """The sha256 of the content, and the reason why it is not an image or ""."""
    try:
        content = read_bytes(path)
        check(content)
    except InvalidImageError as error:
        return "", error.message
    return hashlib.sha256(content).hexdigest(), ""


def _digest_of(texts: Iterable[str]) -> hashlib._Hash:
    """A sha256 over texts which cannot contain NUL, so that no two lists read the same."""
    return hashlib.sha256(b"".join(os.fsencode(text) + b"\0" for text in texts))
