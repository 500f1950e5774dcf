"""Makes an image directory from a folder or an archive (Azure: *Convert to Image Directory*)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, OutputError, listed, printable
from mlflow_resnet.images.archives import ARCHIVE_SUFFIXES, archive_images
from mlflow_resnet.images.decode import MAX_IMAGE_BYTES, check, read_bytes
from mlflow_resnet.images.directories import Ignored, Walk, no_images
from mlflow_resnet.images.output import new_directory
from mlflow_resnet.images.reasons import os_reason


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote, and left out: `unreadable` maps names in the source to the reason."""

    images: int
    classes: tuple[str, ...]
    unreadable: dict[str, str]
    ignored: Ignored


def convert(source: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> Converted:
    """Copies the readable images of a folder or a .zip, .tar, .tar.gz or .tgz archive to the new `output_dir`.

    Names stay. Folders that only wrap the class folders are dropped. Without class folders the output is a flat
    directory of unlabeled images. Raises InvalidDatasetError if the source cannot be read or holds no readable image,
    OutputError if `output_dir` cannot be written or is not empty.
    """
    ignored: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    written: set[str] = set()
    with new_directory(output_dir) as directory:
        for name, content, problem in _images(source, ignored):
            if problem := problem or _problem(content):
                unreadable[name] = problem
                _write(directory / name, b"")
            else:
                _write(directory / _unique(name, written), content)
        if not written:
            raise _nothing(source, Ignored(**ignored), unreadable)
        _unwrap(directory)
        classes = tuple(sorted(entry.name for entry in directory.iterdir() if entry.is_dir()))
    return Converted(len(written), classes, unreadable, Ignored(**ignored))


def _images(source: str | os.PathLike[str], ignored: Counter[str]) -> Iterator[tuple[str, bytes, str]]:
    """(relative name, content, why the content could not be had or "") of each image."""
    path = os.fspath(source)
    if os.path.isfile(path):
        if not path.lower().endswith(ARCHIVE_SUFFIXES):
            raise InvalidDatasetError(source, f"not a directory nor an archive ({', '.join(ARCHIVE_SUFFIXES)})")
        yield from ((name, content, "") for name, content in archive_images(source, ignored))
        return
    for name in Walk(source, ignored).images(""):
        try:
            yield name, read_bytes(os.path.join(path, name)), ""
        except InvalidImageError as error:
            yield name, b"", error.message


def _problem(content: bytes) -> str:
    if len(content) > MAX_IMAGE_BYTES:
        return f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image"
    try:
        check(content)
    except InvalidImageError as error:
        return error.message
    return ""


def _unique(name: str, taken: set[str]) -> str:
    """`name`, with a number before its suffix if it is taken, also in another case. `taken` learns it."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


def _write(path: Path, content: bytes) -> None:
    """Writes a file; without content only its folder, so that a class of unreadable images is still a class."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if content:
            path.write_bytes(content)
    except OSError as error:  # an archive may name a file like a folder, or too long
        raise OutputError(path, f"cannot be written ({os_reason(error)})") from error


def _nothing(source: str | os.PathLike[str], ignored: Ignored, unreadable: dict[str, str]) -> InvalidDatasetError:
    if not unreadable:
        return no_images(source, ignored)
    reasons = listed(f"{printable(name)} ({reason})" for name, reason in unreadable.items())
    return InvalidDatasetError(source, f"none of its {len(unreadable)} images can be read: {reasons}")


def _unwrap(directory: Path) -> None:
    """While all there is is one folder that holds folders, moves what it holds up."""
    while (wrapper := _wrapper(directory)) is not None:
        emptied = wrapper.rename(directory / ".wrapper")  # it may hold a folder of its own name
        for entry in list(emptied.iterdir()):
            entry.rename(directory / entry.name)
        emptied.rmdir()


def _wrapper(directory: Path) -> Path | None:
    entries = list(directory.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and any(entry.is_dir() for entry in entries[0].iterdir()):
        return entries[0]
    return None
