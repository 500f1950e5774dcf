"""Lists directories of images, labeled by class folders or not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, NotLabeledDatasetError, printable
from mlflow_resnet.images.decode import IMAGE_EXTENSIONS
from mlflow_resnet.images.reasons import os_reason


@dataclass(frozen=True)
class Ignored:
    """How many entries a listing left out, and why. A hidden folder counts once, whatever it holds."""

    hidden: int = 0
    not_images: int = 0
    outside_links: int = 0
    beside_classes: int = 0

    def __str__(self) -> str:
        """A clause for a message, empty if nothing was left out."""
        facts = {
            "hidden": self.hidden,
            "without an image's extension": self.not_images,
            "behind links that lead outside or in a circle": self.outside_links,
            "beside the class folders": self.beside_classes,
        }
        clauses = [f"{count} {what}" for what, count in facts.items() if count]
        return "ignored " + ", ".join(clauses) if clauses else ""


@dataclass(frozen=True)
class LabeledDirectory:
    """Images in class folders: `names[i]`, relative to `root` with "/" between its parts, is of class `labels[i]`."""

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    ignored: Ignored

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Where each image is."""
        return tuple(os.path.join(self.root, name) for name in self.names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """`classes` as text that JSON, CSV and databases take, also where a folder's name is not UTF-8."""
        return tuple(printable(name) for name in self.classes)

    def counts(self) -> dict[str, int]:
        """Images per class, of every class, in the order of `classes`."""
        counts = Counter(self.labels)
        return {name: counts[name] for name in self.classes}

    def subset(self, indices: Sequence[int]) -> LabeledDirectory:
        """The images at `indices`; the classes stay."""
        names, labels = (tuple(values[index] for index in indices) for values in (self.names, self.labels))
        return replace(self, names=names, labels=labels)

    def without(self, names: Collection[str]) -> LabeledDirectory:
        """All images but those named; the classes stay."""
        unwanted = frozenset(names)
        return self.subset([index for index, name in enumerate(self.names) if name not in unwanted])


def list_labeled(root: str | os.PathLike[str]) -> LabeledDirectory:
    """The images of a directory with one folder per class. A class's images lie at any depth in its folder.

    Sorted by class, then within each folder by name, files before folders. Raises NotLabeledDatasetError if there are
    images but no class folders, InvalidDatasetError if there are no images or `root` cannot be listed.
    """
    walk = Walk(root)
    loose, classes = walk.entries("")
    walk.ignored["beside_classes"] = len(loose)
    pairs = [(name, label) for label in classes for name in walk.images(label)]
    if loose and not classes:
        raise NotLabeledDatasetError(root)
    if not pairs:
        raise no_images(root, walk.report())
    names, labels = zip(*pairs, strict=True)
    return LabeledDirectory(Path(root), tuple(classes), names, labels, walk.report())


def list_images(root: str | os.PathLike[str]) -> Iterator[str]:
    """Paths of all images in `root` at any depth, lazily; same rules and order. Raises InvalidDatasetError at once."""
    walk = Walk(root)
    return (os.path.join(root, name) for name in walk.images(""))


def no_images(root: str | os.PathLike[str], ignored: Ignored) -> InvalidDatasetError:
    """The error for a directory or archive without images."""
    clause = f" ({ignored})" if str(ignored) else ""
    return InvalidDatasetError(root, f"no images{clause}. Supported extensions: {' '.join(sorted(IMAGE_EXTENSIONS))}")


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder says that it is not part of a data set."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Whether the extension is one of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


class Walk:
    """Walks a directory by our rules; `ignored` counts what they leave out. Holds one folder's list at a time."""

    def __init__(self, root: str | os.PathLike[str], ignored: Counter[str] | None = None) -> None:
        self.root = os.fspath(root)
        self.real_root = os.path.realpath(self.root)
        self.ignored = Counter() if ignored is None else ignored
        if not os.path.isdir(self.root):
            raise InvalidDatasetError(root, "not a directory" if os.path.lexists(self.root) else "does not exist")
        if not _listed(self.root, limit=1):
            raise InvalidDatasetError(root, "empty directory")

    def report(self) -> Ignored:
        return Ignored(**self.ignored)

    def images(self, folder: str) -> Iterator[str]:
        """Names of the images in `folder` at any depth, relative to the root. Visits each real folder once."""
        pending, visited = [folder], set()
        while pending:
            folder = pending.pop()
            identity = _identity(os.path.join(self.root, folder))
            if identity in visited:
                continue
            visited.add(identity)
            images, folders = self.entries(folder)
            yield from images
            pending.extend(reversed(folders))

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Names, relative to the root and sorted, of the images and the folders right in `folder`."""
        found: dict[str, list[str]] = {"image": [], "folder": []}
        for entry in _listed(os.path.join(self.root, folder)):
            kind = self._kind(entry)
            if kind in found:
                found[kind].append(f"{folder}/{entry.name}" if folder else entry.name)
            else:
                self.ignored[kind] += 1
        return found["image"], found["folder"]

    def _kind(self, entry: os.DirEntry[str]) -> str:
        if is_hidden(entry.name):
            return "hidden"
        if entry.is_symlink() and not self._leads_inside(entry.path):
            return "outside_links"
        if entry.is_dir():
            return "folder"
        return "image" if is_image(entry.name) and entry.is_file() else "not_images"

    def _leads_inside(self, link: str) -> bool:
        """Whether `link` has a target, inside the root and not a folder around the link itself.

        A link in one class to the root would give it the images of all classes.
        """
        target, around = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
        return os.path.exists(link) and _contains(self.real_root, target) and not _contains(target, around)


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _identity(folder: str) -> tuple[int, int]:
    with _listing_errors(folder):
        facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _listed(folder: str, limit: int | None = None) -> list[os.DirEntry[str]]:
    with _listing_errors(folder), os.scandir(folder) as entries:
        return sorted(islice(entries, limit), key=lambda entry: entry.name)


@contextmanager
def _listing_errors(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidDatasetError(folder, f"cannot be listed ({os_reason(error)})") from error
