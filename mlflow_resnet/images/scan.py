"""Reads every image of a directory once: finds bad ones and identifies the data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from mlflow_resnet.errors import BadImagesError, InvalidDatasetError, join_names, printable
from mlflow_resnet.images.audit.image_facts import FactsJournal, ImageFacts, check_imagehash, inspect_file
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.io.parallel import map_ordered


@dataclass(frozen=True)
class Scan:
    """Facts about each image by name, in the directory's order."""

    facts: dict[str, ImageFacts]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Name -> sha256 of the content of each readable image."""
        return {name: facts.sha256 for name, facts in self.facts.items() if not facts.problem}

    @cached_property
    def bad(self) -> dict[str, str]:
        """Name -> why the image cannot be read."""
        return {name: facts.problem for name, facts in self.facts.items() if facts.problem}


def scan(
    directory: LabeledDirectory,
    threads: int,
    on_image: Callable[[], object] = lambda: None,
    *,
    looks: bool = False,
    journal: FactsJournal | None = None,
) -> Scan:
    """Reads and decodes every image in full. With `looks`, finds out perceptual hashes too.

    `on_image` is called after each, in the caller's thread. The `journal` has facts already, and learns the new ones.
    """
    if looks:
        check_imagehash("looking for similar pictures")
    find = partial(inspect_file, looks=looks)
    if journal:
        find = partial(journal.find_once, find, looks=looks)
    facts = {}
    for name, found in zip(directory.names, map_ordered(find, directory.paths, threads), strict=True):
        facts[name] = found
        on_image()
    return Scan(facts)


def digest_directory(directory: LabeledDirectory, hashes: Mapping[str, str]) -> str:
    """16 hex digits that identify the classes, names and contents of `directory`, wherever it is.

    `hashes` are those of a scan that found all its images readable, or left the others out.
    """
    digest = _hash_texts(directory.classes)
    for name in directory.names:
        digest.update(_hash_texts([name, hashes[name]]).digest())
    return digest.hexdigest()[:16]


def apply_policy(directory: LabeledDirectory, found: Scan, on_bad_image: str) -> LabeledDirectory:
    """The directory without its bad images if `on_bad_image` is "skip"; BadImagesError if it is "error".

    InvalidDatasetError if nothing would be left.
    """
    if not found.bad:
        return directory
    if on_bad_image != "skip":
        raise BadImagesError(directory.source, found.bad)
    if len(found.bad) == len(directory):
        reasons = join_names(f"{printable(name)} ({reason})" for name, reason in found.bad.items())
        raise InvalidDatasetError(directory.source, f"none of its {len(directory)} images can be read: {reasons}")
    return directory.without(found.bad)


def _hash_texts(texts: Iterable[str]) -> hashlib._Hash:
    """Returns a sha256 over texts without NUL, unambiguous for different lists."""
    return hashlib.sha256(b"".join(os.fsencode(text) + b"\0" for text in texts))
