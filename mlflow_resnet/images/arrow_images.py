"""Prepared images in one memory-mapped Arrow file, shared by all processes.

The Arrow IPC file format has what is needed: it is written as a stream, read without a copy, and ends with a footer
and a magic number, without which it cannot be opened: a file that was cut is never taken for a whole one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from mlflow_resnet.errors import OutputError
from mlflow_resnet.io.atomic import leftovers, new_file
from mlflow_resnet.io.memory import size_in_words

IMAGES_PER_BATCH = 64  # as many are held while packing; each batch costs about 1 KiB of headers
REMEDY = "name another folder with --cache-dir, or pass --cache none"

Images = Callable[[], Generator[np.ndarray, None, None]]

_SCHEMA = pa.schema([("height", pa.int32()), ("width", pa.int32()), ("pixels", pa.large_binary())])


class PackedImages:
    """The images in the file at `path`. Raises OSError or pyarrow.ArrowException if it is missing or damaged."""

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all()
        table.validate(full=True)  # offsets that lead out of the file would crash the process
        if table.schema != _SCHEMA:
            raise pa.ArrowInvalid("not a file of packed images")
        self._heights, self._widths = (table[name].to_numpy() for name in ("height", "width"))
        self._pixels = table["pixels"]
        pixels = 3 * self._heights.astype(np.int64) * self._widths
        if not (min(self._heights, default=1) > 0 and np.array_equal(pc.binary_length(self._pixels), pixels)):
            raise pa.ArrowInvalid("sizes that are not those of the images")
        self.nbytes = table.nbytes

    def __len__(self) -> int:
        return len(self._heights)

    def load(self, index: int) -> np.ndarray:
        """Image `index`: uint8 of shape (H, W, 3), a read-only view of the file."""
        pixels = np.frombuffer(self._pixels[index].as_buffer(), dtype=np.uint8)
        return pixels.reshape(self._heights[index], self._widths[index], 3)


def pack_images(path: Path, count: int, images: Images, expected_bytes: Callable[[], int]) -> PackedImages:
    """The images in the file at `path`; if it is missing or damaged, the `count` of `images()` are packed there first.

    One process packs while others that want the same file wait for it. Raises OutputError if the file cannot be
    written, or if its disk has less room than `expected_bytes()`.
    """
    if (packed := _open_packed(path, count)) is not None:
        return packed
    _remove_leftovers(path.parent)
    with _lock(path, wait=True):
        if (packed := _open_packed(path, count)) is not None:  # written by the process that had the lock
            return packed
        try:
            _pack(path, images, expected_bytes)
        except OutputError as error:
            raise OutputError(path, f"{error.problem}; {REMEDY}") from error
        return PackedImages(path)


def _open_packed(path: Path, count: int) -> PackedImages | None:
    try:
        packed = PackedImages(path)
        return packed if len(packed) == count else None
    except (OSError, pa.ArrowException):
        return None


def _pack(path: Path, images: Images, expected_bytes: Callable[[], int]) -> None:
    with new_file(path) as partial:
        expected, free = expected_bytes(), shutil.disk_usage(path.parent).free
        if expected > free:
            need = f"it takes about {size_in_words(expected)}, and {size_in_words(free)} are free"
            raise OutputError(path, f"cannot be written ({need})")
        with open(partial, "wb") as file, closing(images()) as rest:
            with pa.ipc.new_file(file, _SCHEMA) as writer:
                while batch := list(islice(rest, IMAGES_PER_BATCH)):
                    heights, widths = ([image.shape[axis] for image in batch] for axis in (0, 1))
                    writer.write_batch(
                        pa.record_batch([heights, widths, [image.tobytes() for image in batch]], schema=_SCHEMA)
                    )
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the final name on a file with holes


def _remove_leftovers(folder: Path) -> None:
    """Removes unfinished files of killed processes. An active writer holds the lock."""
    for lock in folder.glob("*.lock"):
        path = lock.with_suffix(".arrow")
        with _lock(path, wait=False) as held, suppress(OSError):
            for leftover in leftovers(path) if held else ():
                leftover.unlink()


@contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Yields whether it holds the lock for writing `path`, which the system frees when a process dies.

    On a file system without locks nobody does: then several processes do the same work, and the last one's file stays.
    """
    lock = FileLock(path.with_suffix(".lock"), blocking=wait)
    with suppress(OSError, NotImplementedError):  # held by another process, or there are no locks
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()
