"""Reads every image of a directory once: which are bad, and what identifies the data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from mlflow_resnet.errors import BadImagesError, InvalidDatasetError, listed, printable
from mlflow_resnet.images.audit.facts import ImageFacts, check_imagehash, facts_of_file
from mlflow_resnet.images.audit.journal import FactsJournal
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.io.parallel import map_ordered


@dataclass(frozen=True)
class Scan:
    """`facts`: name -> what was found out about the image, in the directory's order."""

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
    """Reads and decodes every image in full.

    Args:
        on_image: called after each, in the caller's thread.
        looks: find out perceptual hashes too.
        journal: facts that are known already; it learns the new ones.
    """
    if looks:
        check_imagehash("looking for similar pictures")
    find = partial(facts_of_file, looks=looks)
    if journal:
        find = partial(journal.remembered, find, looks=looks)
    facts = {}
    for name, found in zip(directory.names, map_ordered(find, directory.paths, threads), strict=True):
        facts[name] = found
        on_image()
    return Scan(facts)


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
        raise BadImagesError(directory.source, found.bad)
    if len(found.bad) == len(directory):
        reasons = listed(f"{printable(name)} ({reason})" for name, reason in found.bad.items())
        raise InvalidDatasetError(directory.source, f"none of its {len(directory)} images can be read: {reasons}")
    return directory.without(found.bad)


def _digest_of(texts: Iterable[str]) -> hashlib._Hash:
    """A sha256 over texts which cannot contain NUL, so that no two lists read the same."""
    return hashlib.sha256(b"".join(os.fsencode(text) + b"\0" for text in texts))
