"""Reads the images in zip and tar archives, one at a time and into memory: nothing is extracted."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO

from mlflow_resnet.errors import InvalidDatasetError, printable
from mlflow_resnet.images.decode import MAX_IMAGE_BYTES
from mlflow_resnet.images.reasons import one_line
from mlflow_resnet.images.rules import is_hidden, is_image

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")
MAX_ARCHIVE_BYTES = 100 * 2**30  # of all members, unpacked
MAX_MEMBERS = 2_000_000  # tarfile keeps about 1 KiB of each in memory

Source = str | os.PathLike[str]
Members = Iterator[tuple[str, Callable[[], IO[bytes] | None]]]


def archive_members(source: Source, ignored: Counter[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(relative name, what reads it) of each image; `ignored` counts the rest by the fields of `Ignored`.

    What reads an image must be called before the next one is asked for. It cuts after `MAX_IMAGE_BYTES` + 1 bytes.
    Raises InvalidDatasetError for a damaged archive, one over the limits above, or one with names that lead out of it.
    """
    members = _zip_members if os.fspath(source).lower().endswith(".zip") else _tar_members
    with _damage_told(source):
        for raw_name, open_member in members(source, ignored):
            name = _relative(source, raw_name)
            if any(map(is_hidden, name.split("/"))):
                ignored["hidden"] += 1
            elif not is_image(name):
                ignored["not_images"] += 1
            else:
                yield name, partial(_read, source, open_member)


def _zip_members(source: Source, ignored: Counter[str]) -> Members:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        _check_limits(source, len(members), sum(member.file_size for member in members))
        for member in members:
            if stat.S_ISLNK(member.external_attr >> 16):
                ignored["outside_links"] += 1
            elif not member.is_dir():
                yield member.filename, partial(archive.open, member)


def _tar_members(source: Source, ignored: Counter[str]) -> Members:
    total = 0
    with tarfile.open(source) as archive:
        for count, member in enumerate(archive, 1):
            total += member.size
            _check_limits(source, count, total)  # before tarfile unpacks this member to find the next
            if member.isfile():
                yield member.name, partial(archive.extractfile, member)
            elif not member.isdir():
                ignored["outside_links" if member.issym() or member.islnk() else "not_images"] += 1
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """An archive cut between two members iterates without an error, but lacks the closing block of zeros."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("unexpected end of data")


def _check_limits(source: Source, count: int, total_bytes: int) -> None:
    if count > MAX_MEMBERS:
        raise InvalidDatasetError(source, f"over the limit of {MAX_MEMBERS} files; unpack it and give the directory")
    if total_bytes > MAX_ARCHIVE_BYTES:
        limit = f"{MAX_ARCHIVE_BYTES // 2**30} GiB"
        raise InvalidDatasetError(source, f"unpacks to more than {limit}; unpack it and give the directory")


def _relative(source: Source, raw_name: str) -> str:
    """The name with "/" between its parts. One that leads out of the archive is refused, and the archive with it."""
    name = raw_name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts:
        raise InvalidDatasetError(source, f"refused: its member {printable(raw_name)!r} leads out of the archive")
    return "/".join(parts)


def _read(source: Source, open_member: Callable[[], IO[bytes] | None]) -> bytes:
    with _damage_told(source):
        file = open_member()
        assert file is not None  # None is for folders and devices
        with file:
            return file.read(MAX_IMAGE_BYTES + 1)


@contextmanager
def _damage_told(source: Source) -> Iterator[None]:
    """zipfile and tarfile raise errors of their own, of zlib, OSError, EOFError, RuntimeError (encrypted) and more."""
    try:
        yield
    except (InvalidDatasetError, MemoryError):
        raise
    except Exception as error:
        raise InvalidDatasetError(source, f"damaged or unreadable archive ({one_line(error)})") from error
