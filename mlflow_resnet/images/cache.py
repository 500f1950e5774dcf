"""Prepared images: decoded and resized once, kept as uint8. Training and validation read images through it.

They are kept in memory, or in one memory-mapped Arrow file that all processes share. The Arrow IPC file format has what
is needed: it is written as a stream, read without a copy, and ends with a footer and a magic number, without which it
cannot be opened: a file that was cut is never taken for a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import BadImagesError, InvalidImageError, InvalidOptionsError, OutputError
from mlflow_resnet.images.decoding.decode import read_bytes
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.io.atomic import leftovers, new_file
from mlflow_resnet.io.memory import available_memory, size_in_words
from mlflow_resnet.io.own_folders import private_cache
from mlflow_resnet.io.parallel import map_ordered

MODES = ("auto", "ram", "disk", "none")
AUTO_SHARE = 0.5  # of the available memory, that "auto" takes at most
RAM_SHARE = 0.8  # that "ram" takes at most
SAMPLE_SIZE = 32  # images prepared to estimate the size of all
IMAGES_PER_BATCH = 64  # as many are held while packing; each batch costs about 1 KiB of headers
REMEDY = "name another folder with --cache-dir, or pass --cache none"

Images = Callable[[], Generator[np.ndarray, None, None]]

_SCHEMA = pa.schema([("height", pa.int32()), ("width", pa.int32()), ("pixels", pa.large_binary())])


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """`images[i]` is image i as uint8 of shape (H_i, W_i, 3). Any number of threads may read at once.

    The arrays are read-only, whatever the mode: the next read and other processes see the same memory. torch warns
    of such arrays, so copy what you use, after the crop: `torch.from_numpy(images[i][rows, columns].copy())`.
    Reading raises BadImagesError if the file is gone, or no longer what was scanned.

    Attributes:
        description: a clause for the terminal, on where the images are kept.
        memory_bytes: what they will take in this process's memory once all were read; 0 unless they are kept there.
    """

    load: Callable[[int], np.ndarray]
    count: int
    description: str
    memory_bytes: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return self.load(index)


def prepare_images(
    directory: LabeledDirectory,
    hashes: Mapping[str, str],
    prepare: Callable[[bytes], np.ndarray],
    settings: Mapping[str, object],
    *,
    mode: str,
    threads: int,
    cache_dir: str | os.PathLike[str] = "",
    processes: int = 1,
    reserved_bytes: int = 0,
    on_image: Callable[[], object] = lambda: None,
) -> PreparedImages:
    """The images of `directory`, each as `prepare` makes it of the file's content.

    Args:
        hashes: name -> sha256 of the content, from `images.scan`.
        prepare: always gives the same uint8 array of shape (H, W, 3) for the same content.
        settings: what its result depends on besides, as JSON takes it; another value gives another file on disk.
        mode: "none" prepares at every read. "ram" prepares at the first read and keeps the array. "disk" prepares all
            now, into one file that later runs and other processes share, and that nobody removes. "auto" is "ram" if
            half of the available memory is enough, else "none": disks are not filled unasked.
        cache_dir: where "disk" keeps its files; "" is $MLFLOW_RESNET_CACHE, else the user's cache directory.
        processes: how many on this machine make this same call; each keeps arrays of its own in "ram".
        reserved_bytes: memory this process is yet to take, such as the `memory_bytes` of other images.
        on_image: called for each image that is put on disk, in this thread.

    Raises InvalidOptionsError if "ram" would take more than 80 % of the available memory, or there is no such mode,
    OutputError if "disk" cannot write its file, BadImagesError if an image is gone, or no longer what was scanned.
    """
    source = _Source(directory, hashes, prepare)
    if mode == "none":
        return PreparedImages(source.load, len(directory), "prepared anew at every read")
    if mode == "disk":
        path = private_cache(cache_dir) / f"{_key(directory, hashes, settings)}.arrow"
        packed = pack_images(
            path,
            len(directory),
            lambda: source.load_all(threads, on_image),
            lambda: source.estimate_total(source.sample(threads)),
        )
        return PreparedImages(packed.load, len(packed), f"kept on disk ({size_in_words(packed.nbytes)} in {path})")
    if mode in ("auto", "ram"):
        return _in_memory(source, mode, threads, processes, reserved_bytes)
    raise InvalidOptionsError([f"cache is {mode!r}; choose one of {', '.join(MODES)}"])


@dataclass(frozen=True)
class _Source:
    """The images as they are in their files."""

    directory: LabeledDirectory
    hashes: Mapping[str, str]
    prepare: Callable[[bytes], np.ndarray]

    def load(self, index: int) -> np.ndarray:
        """Image `index`, read and prepared. Its content is what was scanned: the run and the file on disk say so."""
        name = self.directory.names[index]
        try:
            content = read_bytes(self.directory.paths[index])
            if hashlib.sha256(content).hexdigest() != self.hashes[name]:
                raise InvalidImageError("changed since it was scanned")
            image = self.prepare(content).view()
        except InvalidImageError as error:
            raise BadImagesError(self.directory.source, {name: error.message}) from None
        image.flags.writeable = False
        return image

    def load_all(self, threads: int, on_image: Callable[[], object]) -> Generator[np.ndarray, None, None]:
        for image in map_ordered(self.load, range(len(self.directory)), threads):
            yield image
            on_image()

    def sample(self, threads: int) -> dict[int, np.ndarray]:
        """Index -> image of a few images, evenly spread over all."""
        count = len(self.directory)
        size = min(count, SAMPLE_SIZE)
        indices = [number * count // size for number in range(size)]
        return dict(zip(indices, map_ordered(self.load, indices, threads), strict=True))

    def estimate_total(self, sample: dict[int, np.ndarray]) -> int:
        """Bytes of all images prepared, as estimated from a sample."""
        return sum(image.nbytes for image in sample.values()) * len(self.directory) // len(sample)


class _Kept:
    """Prepares each image at its first read."""

    def __init__(self, source: _Source, begun: dict[int, np.ndarray]) -> None:
        self._source = source
        self._images = [begun.get(index) for index in range(len(source.directory))]
        self._locks = [Lock() for _ in self._images]

    def load(self, index: int) -> np.ndarray:
        with self._locks[index]:  # a second thread waits for the image instead of preparing it too
            image = self._images[index]
            if image is None:
                image = self._images[index] = self._source.load(index)
            return image


def _in_memory(source: _Source, mode: str, threads: int, processes: int, reserved_bytes: int) -> PreparedImages:
    sample = source.sample(threads)
    need = source.estimate_total(sample)
    available = max(available_memory() // processes - reserved_bytes, 0)
    sizes = f"about {size_in_words(need)} of {size_in_words(available)} available"
    if processes > 1:
        sizes += f" to each of {processes} processes"
    count = len(source.directory)
    if need <= available * (AUTO_SHARE if mode == "auto" else RAM_SHARE):
        return PreparedImages(_Kept(source, sample).load, count, f"kept in memory ({sizes})", need)
    if mode == "auto":
        advice = f"keeping them would take {sizes}, over {AUTO_SHARE:.0%}; --cache disk would keep them on disk"
        return PreparedImages(source.load, count, f"prepared anew at every read ({advice})")
    problem = f"cache is ram, but the prepared images take {sizes}, over the limit of {RAM_SHARE:.0%}"
    raise InvalidOptionsError([f"{problem}; pass --cache disk or --cache none"])


def _key(directory: LabeledDirectory, hashes: Mapping[str, str], settings: Mapping[str, object]) -> str:
    """Returns a hash of contents, settings and decoder versions, independent of names, labels and place."""
    facts = {"mlflow_resnet": __version__, "pillow": PIL.__version__, "settings": dict(settings)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in directory.names:
        digest.update(hashes[name].encode())
    return digest.hexdigest()


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
    for lock in path.parent.glob("*.lock"):  # files of killed processes; an active writer holds its lock
        other = lock.with_suffix(".arrow")
        with _lock(other, wait=False) as held, suppress(OSError):
            for leftover in leftovers(other) if held else ():
                leftover.unlink()
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
