"""Reads the images in zip and tar archives, one at a time and into memory: nothing is extracted."""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from mlflow_resnet.errors import InvalidDatasetError, printable
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES
from mlflow_resnet.images.rules import path_kind
from mlflow_resnet.io.reasons import one_line

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")
MAX_ARCHIVE_BYTES = 100 * 2**30  # of all members, unpacked
MAX_MEMBERS = 2_000_000  # zipfile keeps about 1 KiB of each in memory
MAX_DIRECTORY_BYTES = 256 * 2**20  # of a zip, which is read at once
MAX_HEADER_BYTES = 2**20  # of one member of a tar, with all that extends it
MAX_GLOBAL_HEADERS = 100
ZIP_HEADER_BYTES, ZIP_ENTRY = 30, b"PK\1\2"

Members = Iterator[tuple[str, Callable[[], IO[bytes] | None]]]


def archive_members(source: Path, ignored: Counter[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields (relative name, function that reads it) of each image; `ignored` counts the rest.

    What reads an image must be called before the next one is asked for. It cuts after `MAX_IMAGE_BYTES` + 1 bytes.
    Raises InvalidDatasetError for a damaged archive, one over the limits above, or one with names that lead out of it.
    """
    members = _zip_members if source.name.lower().endswith(".zip") else _tar_members
    with _explain_damage(source):
        for raw_name, open_member in members(source, ignored):
            name = _relative(source, raw_name)
            if (kind := path_kind(name)) == "image":
                yield name, partial(_read, source, open_member)
            else:
                ignored[kind] += 1


def _zip_members(source: Path, ignored: Counter[str]) -> Members:
    with open(source, "rb") as file, zipfile.ZipFile(Directory(file, MAX_DIRECTORY_BYTES)) as archive:
        members = archive.infolist()
        _check_limits(source, len(members), sum(member.file_size for member in members))
        _check_apart(source, members)
        for member in members:
            if stat.S_ISLNK(member.external_attr >> 16):
                ignored["archived_links"] += 1
            elif not member.is_dir():
                yield member.filename, partial(archive.open, member)


def _check_apart(source: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Members that share bytes let a small file hold any number of them."""
    end = 0
    for member in sorted(members, key=lambda each: each.header_offset):
        if member.header_offset < end:
            raise InvalidDatasetError(source, "refused: its members overlap")
        end = member.header_offset + ZIP_HEADER_BYTES + member.compress_size


def _tar_members(source: Path, ignored: Counter[str]) -> Members:
    count = total = 0
    with open_unpacked(source) as unpacked, open_tar(file := Metered(unpacked, MAX_IMAGE_BYTES + 2**20)) as archive:
        while (member := _next_member(archive, file)) is not None:
            count += 1
            total += member.size
            _check_limits(source, count, total)  # before tarfile unpacks this member to find the next
            if member.isfile():
                yield member.name, partial(archive.extractfile, member)
            elif not member.isdir():
                ignored["archived_links" if member.issym() or member.islnk() else "not_images"] += 1
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # it was cut between two members
            raise tarfile.ReadError("unexpected end of data")


def open_tar(file: Metered) -> tarfile.TarFile:
    with file.limit_reads(MAX_HEADER_BYTES):  # it reads the first header
        return tarfile.open(fileobj=file, mode="r:")


def _next_member(archive: tarfile.TarFile, file: Metered) -> tarfile.TarInfo | None:
    """The next member, after whatever extends its header: long names, attributes, maps of sparse files."""
    with file.limit_reads(MAX_HEADER_BYTES):
        member = archive.next()
    if len(archive.pax_headers) > MAX_GLOBAL_HEADERS:
        raise tarfile.ReadError("too many global headers")
    if member is not None and member.size < 0:
        raise tarfile.ReadError("a member of a negative size")
    archive.members.clear()  # type: ignore[attr-defined] # each would stay in memory
    return member


@contextmanager
def open_unpacked(source: Path) -> Iterator[BinaryIO]:
    """The content of a tar that may be compressed, as its first bytes say."""
    with open(source, "rb") as file:
        begin = file.read(3)
        file.seek(0)
        if begin[:2] == b"\x1f\x8b":
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
        elif begin == b"BZh":
            yield cast(BinaryIO, bz2.BZ2File(file))
        else:
            yield file


class Metered(io.RawIOBase):
    """A file with a limit on the size of each read.

    tarfile and zipfile read headers and directories in one piece, of a size that the archive claims.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.file, self.most, self.left = file, most, -1

    @contextmanager
    def limit_reads(self, total: int) -> Iterator[None]:
        """Meanwhile, no more than `total` bytes may be read."""
        self.left = total
        try:
            yield
        finally:
            self.left = -1

    def read(self, size: int | None = -1) -> bytes:
        limit = self.most if self.left < 0 else min(self.left, self.most)
        content = self.file.read(limit + 1 if size is None or size < 0 else min(size, limit + 1))
        if len(content) > limit:
            raise tarfile.ReadError("its headers are over the limits")
        if self.left >= 0:
            self.left -= len(content)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class Directory(Metered):
    """A metered zip file whose directory may not have more entries than MAX_MEMBERS."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if len(content) > MAX_MEMBERS and content.count(ZIP_ENTRY) > MAX_MEMBERS:
            raise zipfile.BadZipFile(f"over the limit of {MAX_MEMBERS} files")
        return content


def _check_limits(source: Path, count: int, total_bytes: int) -> None:
    if count > MAX_MEMBERS:
        raise InvalidDatasetError(source, f"over the limit of {MAX_MEMBERS} files; unpack it and give the directory")
    if total_bytes > MAX_ARCHIVE_BYTES:
        limit = f"{MAX_ARCHIVE_BYTES // 2**30} GiB"
        raise InvalidDatasetError(source, f"unpacks to more than {limit}; unpack it and give the directory")


def _relative(source: Path, raw_name: str) -> str:
    """The name with "/" between its parts. One that leads out of the archive is refused, and the archive with it."""
    name = raw_name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts:
        raise InvalidDatasetError(source, f"refused: its member {printable(raw_name)!r} leads out of the archive")
    return "/".join(parts)


def _read(source: Path, open_member: Callable[[], IO[bytes] | None]) -> bytes:
    with _explain_damage(source):
        file = open_member()
        assert file is not None  # None is for folders and devices
        with file:
            return file.read(MAX_IMAGE_BYTES + 1)


@contextmanager
def _explain_damage(source: Path) -> Iterator[None]:
    """zipfile and tarfile raise errors of their own, of zlib, OSError, EOFError, RuntimeError (encrypted) and more."""
    try:
        yield
    except (InvalidDatasetError, MemoryError):
        raise
    except Exception as error:
        raise InvalidDatasetError(source, f"damaged or unreadable archive ({one_line(error)})") from error
