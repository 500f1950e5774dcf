"""Images and directories that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mlflow_resnet.errors.base import MlflowResnetError, PathError, listed
from mlflow_resnet.io.text.characters import printable


class InvalidDatasetError(PathError):
    """`path` cannot be used as a directory or archive of images."""


class NotLabeledDatasetError(InvalidDatasetError):
    """`path` has no class folders."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "no class folders. Put each class's images in a folder named after the class.")


class BadImagesError(InvalidDatasetError):
    """Some images cannot be read; `reasons` maps each name to why."""

    def __init__(self, path: str | os.PathLike[str], reasons: dict[str, str]) -> None:
        self.reasons = reasons
        pairs = listed(f"{printable(name)} ({reason})" for name, reason in reasons.items())
        super().__init__(
            path,
            f"{len(reasons)} unreadable image{'s' * (len(reasons) != 1)}: {pairs}. "
            "Repair or remove them, or leave them out with --on-bad-image skip.",
        )


class ObjectUnreadableError(InvalidDatasetError):
    """One object in S3 cannot be read; the others may be."""


class StoreUnreachableError(InvalidDatasetError):
    """S3 does not answer, or is too busy."""

    is_passing = True


class ClassMismatchError(InvalidDatasetError):
    """`path` holds class folders that are not among the known classes."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        extra: Sequence[str],
        known: Sequence[str],
        owner: str,
        advice: str = "Rename or remove them.",
    ) -> None:
        self.extra, self.known = tuple(extra), tuple(known)
        super().__init__(
            path,
            f"class folders {listed(map(repr, extra))} are unknown to {owner}, "
            f"which has {listed(map(repr, known))}. {advice}",
        )


class InvalidImageError(MlflowResnetError):
    """One image cannot be read. Says why; the caller knows which image."""


class InvalidTableError(MlflowResnetError):
    """A table cannot be read, or costs too much to read. Says why; the caller knows which table."""
