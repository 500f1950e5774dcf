"""Lists directories of images, labeled by class folders or not."""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from mlflow_resnet.errors import InvalidDatasetError, NotLabeledDatasetError, encodable
from mlflow_resnet.images.decoding.decode import IMAGE_EXTENSIONS
from mlflow_resnet.images.index import read_references
from mlflow_resnet.images.layout import Layout
from mlflow_resnet.images.rules import Ignored, file_kind
from mlflow_resnet.io.file_names import is_hidden
from mlflow_resnet.io.own_folders import BOOKKEEPING, STORES, is_artifact, is_own_folder
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.io.s3.listing import StoredObject
from mlflow_resnet.io.text.places import place_problem

NAMES_AT_ONCE = 100_000  # in memory, of one folder


@dataclass(frozen=True)
class LabeledDirectory:
    """Images in class folders: image `names[i]` is of class `labels[i]` and lies at `paths[i]` on this machine.

    Attributes:
        source: path or URI, as the user gave it.
        names: relative to the source, with "/" between their parts.
        objects: what was copied from an object store, with key, size and ETag; empty for a local directory.
        references: whether an index or links lead to the images, which anybody may have made.
        advice: what looks unusual about the folders, in a clause for a message; empty if nothing does.
    """

    source: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    ignored: Ignored
    objects: tuple[StoredObject, ...] = ()
    references: bool = False
    advice: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """`classes` as text that JSON, CSV and databases take, also where a folder's name is not UTF-8."""
        return tuple(encodable(name) for name in self.classes)

    def counts(self) -> dict[str, int]:
        """Images per class, of every class, in the order of `classes`."""
        counts = Counter(self.labels)
        return {name: counts[name] for name in self.classes}

    def subset(self, indices: Sequence[int]) -> LabeledDirectory:
        """The images at `indices`; the classes stay."""
        columns = (self.names, self.labels, self.paths)
        names, labels, paths = (tuple(values[index] for index in indices) for values in columns)
        return replace(self, names=names, labels=labels, paths=paths)

    def without(self, names: Collection[str]) -> LabeledDirectory:
        """Returns the directory without the images `names`; the classes stay."""
        unwanted = frozenset(names)
        return self.subset([index for index, name in enumerate(self.names) if name not in unwanted])


def list_labeled(root: str | os.PathLike[str], follow_links: bool = False) -> LabeledDirectory:
    """The images of a directory with one folder per class. A class's images lie at any depth in its folder.

    Sorted by class, then within each folder by name, files before folders. `follow_links`: see `Walk`.

    Raises:
        NotLabeledDatasetError: if there are images but no class folders.
        InvalidDatasetError: if there are no images, the folders are no classes, or `root` cannot be listed.
    """
    if rows := read_references(root):  # the images are elsewhere
        inside = sorted((row for row in rows if row.label), key=lambda row: walk_order(row.name))
        ignored = Counter(beside_classes=len(rows) - len(inside))
        found = build_labeled_directory(root, [row.name for row in inside], [row.source for row in inside], ignored)
        return replace(found, references=True)
    walk = Walk(root, follow_links=follow_links)
    classes: list[str] = []
    walk.ignored["beside_classes"] = sum(1 for _ in walk.images_in("", classes))
    classes.sort()
    names: list[str] = []
    for label in tuple(classes):
        own, count = walk.ignored["own"], len(names)
        names += walk.images(label)
        if len(names) == count and (walk.ignored["own"] > own or label in STORES):
            classes.remove(label)  # it holds nothing but what we wrote
            walk.ignored["own"] = own + 1
    found = build_labeled_directory(root, names, [os.path.join(root, name) for name in names], walk.ignored, classes)
    return replace(found, references=follow_links)


def build_labeled_directory(
    source: str | os.PathLike[str],
    names: Sequence[str],
    paths: Sequence[str],
    ignored: Counter[str],
    classes: Sequence[str] = (),
    objects: Sequence[StoredObject] = (),
) -> LabeledDirectory:
    """Names such as `class/image.jpg` as a labeled directory.

    `ignored` is by the fields of `Ignored`; `classes` are all of them, if there may be some without images.

    Raises:
        NotLabeledDatasetError: if no image is in a class folder, but there are images.
        InvalidDatasetError: if there are none, or the folders are no classes.
    """
    labels = tuple(name.partition("/")[0] for name in names)
    classes = tuple(classes) or tuple(dict.fromkeys(labels))
    left_out = Ignored(**ignored)
    if left_out.beside_classes and not classes:
        raise NotLabeledDatasetError(source)
    if not names:
        raise no_images(source, left_out)
    layout = Layout(names)
    if problem := layout.problem(os.fspath(source)):
        raise InvalidDatasetError(source, problem)
    advice = layout.advice(os.fspath(source))
    columns = tuple(names), labels, tuple(paths)
    return LabeledDirectory(os.fspath(source), classes, *columns, left_out, tuple(objects), advice=advice)


def walk_order(name: str) -> list[tuple[bool, str]]:
    """A key that sorts names as `Walk` finds them: by name, files before folders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def no_images(root: str | os.PathLike[str], ignored: Ignored) -> InvalidDatasetError:
    """The error for a directory or archive without images."""
    clause = f" ({ignored})" if str(ignored) else ""
    return InvalidDatasetError(root, f"no images{clause}. Supported extensions: {' '.join(sorted(IMAGE_EXTENSIONS))}")


class Walk:
    """Lists images in a directory by our rules; `ignored` counts what is left out.

    Holds the names of one folder's folders, and of its images no more than `sort_names` does. With `follow_links` it
    follows those that lead out of the directory too, as DVC, git-annex and the cache of Hugging Face have them.
    """

    def __init__(
        self, root: str | os.PathLike[str], ignored: Counter[str] | None = None, follow_links: bool = False
    ) -> None:
        self.root = os.fspath(root)
        self.real_root = os.path.realpath(self.root)
        self.ignored = Counter() if ignored is None else ignored
        self.follow_links = follow_links
        if not os.path.isdir(self.root):
            missing = place_problem(self.root) or "does not exist"
            raise InvalidDatasetError(root, "not a directory" if os.path.lexists(self.root) else missing)
        with _walk_errors(self.root), os.scandir(self.root) as entries:
            if not any(entries):
                raise InvalidDatasetError(root, "empty directory")

    def images(self, folder: str) -> Iterator[str]:
        """Names of the images in `folder` at any depth, relative to the root. Visits each real folder once."""
        pending, visited = [folder], set()
        while pending:
            folder = pending.pop()
            path = os.path.join(self.root, folder)
            with _walk_errors(path):
                facts = os.stat(path)
            if (facts.st_dev, facts.st_ino) in visited:
                continue
            visited.add((facts.st_dev, facts.st_ino))
            folders: list[str] = []
            yield from self.images_in(folder, folders)
            pending.extend(sorted(folders, reverse=True))

    def images_in(self, folder: str, folders: list[str]) -> Iterator[str]:
        """Names, relative to the root and sorted, of the images right in `folder`.

        Adds those of its folders to `folders`, and counts what else is there, before the first.
        """
        with _walk_errors(os.path.join(self.root, folder)):
            yield from sort_names(self._images_in(folder, folders))

    def _images_in(self, folder: str, folders: list[str]) -> Iterator[str]:
        with os.scandir(os.path.join(self.root, folder)) as entries:
            for entry in entries:
                if not folder and entry.name in BOOKKEEPING:
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                kind = self._kind(entry, name)
                if kind == "image":
                    yield name
                elif kind == "folder":
                    folders.append(name)
                else:
                    self.ignored[kind] += 1

    def _kind(self, entry: os.DirEntry[str], name: str) -> str:
        """Returns "image", "folder", or the field of `Ignored` that counts the entry."""
        if is_hidden(entry.name):
            return "hidden"
        if entry.is_symlink():
            target, around = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
            # one in a class to the root, or to another folder around it, would give it the images of all classes
            if not os.path.exists(entry.path) or _contains(target, around):
                return "broken_links"
            if not self.follow_links and not _contains(self.real_root, target):
                return "outside_links"
        if entry.is_dir():
            return "own" if is_own_folder(name, entry.path) else "folder"
        if is_artifact(name):
            return "own"
        return file_kind(entry.name) if entry.is_file() else "not_images"


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


@contextmanager
def _walk_errors(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidDatasetError(folder, f"cannot be listed ({os_reason(error)})") from error


def sort_names(names: Iterable[str], at_once: int = NAMES_AT_ONCE) -> Iterator[str]:
    """`names` in order. No more than `at_once` are in memory; if there are more, sorted files of them are merged.

    Raises OSError if a temporary file cannot be written.
    """
    names = iter(names)
    part = sorted(islice(names, at_once))
    if len(part) < at_once:
        yield from part
        return
    with ExitStack() as stack:
        files = []
        while part:
            file = stack.enter_context(tempfile.TemporaryFile("w+"))
            # JSON, because a name may have line breaks and bytes that are not UTF-8
            file.writelines(json.dumps(name) + "\n" for name in part)
            file.seek(0)
            files.append(map(json.loads, file))
            part = sorted(islice(names, at_once))
        del part
        yield from heapq.merge(*files)


def spread_evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the indices below `count`, each once, in their order. int of shape (min(count, most),)."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)
