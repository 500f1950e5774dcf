"""Facts about one image: whether it can be read, its pixels, its look; and the journal that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageStat

from mlflow_resnet.errors import InvalidImageError, MissingPackageError
from mlflow_resnet.images.decoding.decode import open_picture, read_bytes
from mlflow_resnet.io.untrusted import build_record, parse_json

SHARPNESS_EDGE = 256  # pixels of the shorter edge at which sharpness is measured, or a little more


@dataclass(frozen=True)
class ImageFacts:
    """Facts about one image file.

    Attributes:
        problem: why the image cannot be read; all that is below `bytes` is then unknown.
        sha256: of the file's content.
        pixels: 32 hex digits that only pictures with the same pixels share.
        look: perceptual hash of 64 bits, of which pictures that look alike share most; None if not asked for.
        brightness, contrast: mean and standard deviation of the gray levels, 0 to 255.
        sharpness: variance of the Laplacian of the gray levels.
    """

    problem: str = ""
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    pixels: str = ""
    look: int | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0


def inspect_file(path: str, looks: bool = False) -> ImageFacts:
    """Reads and decodes an image in full. With `looks`, finds out the perceptual hash too."""
    try:
        content = read_bytes(path)
        with open_picture(content) as picture:
            # each edge is divided by the whole number that leaves the shorter one at least SHARPNESS_EDGE pixels
            gray = picture.convert("L").reduce(max(1, min(picture.size) // SHARPNESS_EDGE))
            levels = ImageStat.Stat(gray)
            return ImageFacts(
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                width=picture.width,
                height=picture.height,
                pixels=hash_pixels(picture),
                look=hash_look(picture) if looks else None,
                brightness=levels.mean[0],
                contrast=levels.stddev[0],
                sharpness=measure_sharpness(np.asarray(gray)),
            )
    except InvalidImageError as error:
        return ImageFacts(error.message)


def hash_pixels(picture: Image.Image) -> str:
    """32 hex digits of an RGB picture's size and pixels. SHA-256, because processors have instructions for it."""
    digest = hashlib.sha256(f"{picture.size}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:32]


def hash_look(picture: Image.Image) -> int:
    """The perceptual hash of imagehash: which of 64 low frequencies are above their median."""
    import imagehash

    return int(str(imagehash.phash(picture)), 16)


def check_imagehash(verb: str) -> None:
    """Raises MissingPackageError unless imagehash is installed."""
    try:
        import imagehash  # noqa: F401
    except ModuleNotFoundError:
        raise MissingPackageError(verb, "imagehash>=4.3") from None


def measure_sharpness(gray: np.ndarray) -> float:
    """The variance of the Laplacian: small where no edge is sharp. 0 for a picture without inner pixels."""
    if min(gray.shape) < 3:
        return 0.0
    levels = gray.astype(np.int16)
    edges = -4 * levels[1:-1, 1:-1]
    for neighbor in (levels[:-2, 1:-1], levels[2:, 1:-1], levels[1:-1, :-2], levels[1:-1, 2:]):
        edges += neighbor
    values = edges.astype(np.float32).ravel()
    return float(values @ values / values.size - values.mean() ** 2)  # the mean is near 0


class FactsJournal:
    """Facts by file (path, bytes, time of its last change in nanoseconds) from one audit to the next.

    They are written as they are found, so that an interrupted audit can be resumed.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.path = folder / "audit" / f"{hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:16]}.jsonl"
        self.known: dict[tuple[str, int, int], ImageFacts] = {}
        self._lock = Lock()

    def __enter__(self) -> FactsJournal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            with open(self.path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        (path, size, time), facts = parse_json(line)
                        self.known[path, size, time] = build_record(ImageFacts, facts)
                    except (ValueError, TypeError):  # a killed process did not finish it, or it is of another version
                        continue
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def find_once(self, find: Callable[[str], ImageFacts], path: str, looks: bool) -> ImageFacts:
        """Returns `find(path)`, or the facts in the journal if the file is unchanged and they are complete."""
        try:
            status = os.stat(path)
        except OSError:
            return find(path)
        key = path, status.st_size, status.st_mtime_ns
        facts = self.known.get(key)
        if facts is None or (looks and facts.look is None and not facts.problem):
            facts = find(path)
            with self._lock:
                self.known[key] = facts
                self._file.write(json.dumps([key, asdict(facts)]) + "\n")
        return facts if looks else replace(facts, look=None)
