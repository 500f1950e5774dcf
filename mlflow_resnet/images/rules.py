"""Decides by name what belongs to a data set, and counts the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from mlflow_resnet.images.decoding.decode import IMAGE_EXTENSIONS
from mlflow_resnet.images.decoding.kinds import UNREAD_EXTENSIONS
from mlflow_resnet.io.file_names import is_hidden
from mlflow_resnet.io.own_folders import is_artifact


def count_as(words: str) -> Any:
    return field(default=0, metadata={"words": words})


@dataclass(frozen=True)
class Ignored:
    """Numbers of entries that a listing left out, by reason. A folder counts once, whatever it holds.

    `unread` are pictures, by their extension; for `own` see `own_folders`.
    """

    hidden: int = count_as("hidden")
    not_images: int = count_as("without an image's extension")
    unread: int = count_as("in a format that is not read, such as HEIC (save them as JPEG or PNG)")
    outside_links: int = count_as("behind links that lead outside (--follow-links follows them)")
    broken_links: int = count_as("behind links that lead nowhere or in a circle")
    archived_links: int = count_as("links in the archive, which are not followed (unpack it, and give the folder)")
    beside_classes: int = count_as("beside the class folders")
    own: int = count_as("written by mlflow_resnet or MLflow")

    def __str__(self) -> str:
        """A clause for a message, empty if nothing was left out."""
        counts = {each.metadata["words"]: getattr(self, each.name) for each in fields(self)}
        clauses = [f"{count} {words}" for words, count in counts.items() if count]
        return "ignored " + ", ".join(clauses) if clauses else ""


def file_kind(name: str) -> str:
    """Returns "image", or the field of `Ignored` that counts files of this name."""
    if is_image(name):
        return "image"
    return "unread" if os.path.splitext(name)[1].lower() in UNREAD_EXTENSIONS else "not_images"


def path_kind(name: str) -> str:
    """Returns "image", or the field of `Ignored` that counts a file with this name, below folders or not."""
    if any(map(is_hidden, name.split("/"))):
        return "hidden"
    return "own" if is_artifact(name) else file_kind(name)


def is_image(name: str) -> bool:
    """Whether the extension is one of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
