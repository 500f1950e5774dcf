"""Decides by name what belongs to a data set, and counts the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mlflow_resnet.images.decoding.decode import IMAGE_EXTENSIONS
from mlflow_resnet.images.decoding.kinds import UNREAD_EXTENSIONS
from mlflow_resnet.io.file_names import is_hidden
from mlflow_resnet.io.own_folders import is_artifact


@dataclass(frozen=True)
class Ignored:
    """Numbers of entries that a listing left out, by reason. A folder counts once, whatever it holds.

    Attributes:
        unread: pictures, by their extension, in a format that is not read.
        own: what mlflow_resnet or MLflow wrote, see `own_folders`.
    """

    hidden: int = 0
    not_images: int = 0
    unread: int = 0
    outside_links: int = 0
    broken_links: int = 0
    archived_links: int = 0
    beside_classes: int = 0
    own: int = 0

    def __str__(self) -> str:
        """A clause for a message, empty if nothing was left out."""
        facts = {
            "hidden": self.hidden,
            "without an image's extension": self.not_images,
            "in a format that is not read, such as HEIC (save them as JPEG or PNG)": self.unread,
            "behind links that lead outside (--follow-links follows them)": self.outside_links,
            "behind links that lead nowhere or in a circle": self.broken_links,
            "links in the archive, which are not followed (unpack it, and give the folder)": self.archived_links,
            "beside the class folders": self.beside_classes,
            "written by mlflow_resnet or MLflow": self.own,
        }
        clauses = [f"{count} {what}" for what, count in facts.items() if count]
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
