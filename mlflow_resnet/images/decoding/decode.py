"""Bytes to pictures: the only place that opens an image.

Pillow decodes. Its plugins are called directly, after a look at the first bytes, instead of through `Image.open`: only
the formats below can ever be parsed, and Pillow's process-wide limit on pixels, a warning up to twice its value,
neither speaks before ours nor has to be changed.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decoding.appearance import (
    Region,
    as_stored,
    load_pixels,
    read_orientation,
    rgb,
    swap_size,
    turn_upright,
)
from mlflow_resnet.images.decoding.cost import check_structure, check_work, estimate_decoded_size
from mlflow_resnet.images.decoding.kinds import describe_content
from mlflow_resnet.io.memory import Room, available_memory, size_in_words
from mlflow_resnet.io.reasons import one_line, os_reason

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
)
MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 64 * 2**20
MAX_SLOW_PIXELS = 2_000_000  # of the PPM and BMP variants that Pillow decodes in Python, at about 1 microsecond a value

LEAST_ROOM = 2**30

_ROOM = Room(lambda: max(available_memory() // 2, LEAST_ROOM))  # for all threads that decode

# Format -> how its files begin, and what opens them. JPEG includes the MPO files of stereo cameras.
_READERS: dict[str, tuple[bytes, Callable[[Any], ImageFile.ImageFile]]] = {
    "JPEG": (rb"\xff\xd8\xff", JpegImagePlugin.jpeg_factory),
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    "PPM": (rb"P[1-6][\s#]", PpmImagePlugin.PpmImageFile),
    "BMP": (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", BmpImagePlugin.BmpImageFile),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImagePlugin.TiffImageFile),
    "WEBP": (rb"RIFF.{4}WEBP", WebPImagePlugin.WebPImageFile),
    "GIF": (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
}
IMAGE_FORMATS = tuple(_READERS)
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}  # those that are not the format's name


def bound_decoding(most_bytes: int) -> None:
    """Has all threads of this process take `most_bytes` for decoding together, and refuse an image that needs more.

    Not once more: others may be decoding.
    """
    global _ROOM
    if not _ROOM.is_strict:
        _ROOM = Room(lambda: most_bytes, is_strict=True)


def open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a FIFO would wait for its writer


def read_bytes(path: str | os.PathLike[str], opener: Callable[[str, int], int] = open_at_once) -> bytes:
    """The content of a regular file of at most `MAX_IMAGE_BYTES`; anything else is an InvalidImageError at once.

    Args:
        opener: opens it, as that of `open` does.
    """
    try:
        with open(path, "rb", opener=opener) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidImageError("not a regular file")
            content = file.read(min(facts.st_size, MAX_IMAGE_BYTES) + 1)  # Python allocates what it is asked for
    except OSError as error:
        raise InvalidImageError(os_reason(error)) from error
    except ValueError as error:  # a NUL in it
        raise InvalidImageError("not a valid path") from error
    if not content:
        raise InvalidImageError("empty file")
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidImageError(f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image")
    return content


def read_region(content: bytes, choose_region: Callable[[int, int], Region], size: tuple[int, int]) -> Image.Image:
    """The part of an image that `choose_region(width, height)` picks, resampled once to `size`, in mode RGB.

    Width, height, region and `size` (width, height) are in pixels of the picture as a person sees it, after its EXIF
    orientation. A region that reaches past the edge is cut there. A JPEG is decoded at the smallest scale (1/8, 1/4,
    1/2) that leaves the region at least `size`; other formats in full. Raises InvalidImageError.
    """
    with _open_image(content) as (image, orientation):
        width, height = swap_size(image.size, orientation)
        left, top, right, bottom = choose_region(width, height)
        region = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if region[0] >= region[2] or region[1] >= region[3]:
            raise ValueError(f"no pixels in the region {(left, top, right, bottom)} of a {width}x{height} image")
        return _resample(image, content, orientation, region, size)


def decode(content: bytes, shorter_edge: int | None = None) -> Image.Image:
    """Decodes the whole picture in mode RGB, with orientation applied. Raises InvalidImageError if any part does
    not decode.

    In full resolution, or, with `shorter_edge`, a JPEG at the smallest scale (1/8, 1/4, 1/2) that leaves that many
    pixels.
    """
    with open_picture(content, shorter_edge) as picture:
        return picture


@contextmanager
def open_picture(content: bytes, shorter_edge: int | None = None) -> Iterator[Image.Image]:
    """Decodes as `decode` does and reserves the memory for the picture while the block runs."""
    with _open_image(content) as (image, orientation):
        edge = shorter_edge or max(image.size)
        with _draft(image, content, image.size, (edge, edge)):
            with _one_line_errors():
                image.load()
                picture = turn_upright(rgb(image), orientation)
            yield picture


def looks_like_image(content: bytes) -> bool:
    """Returns whether `content` has the signature of an accepted image format."""
    return _sniff(content) is not None


def usual_suffix(content: bytes) -> str:
    """Returns the usual suffix of the image format of `content`; empty for any other content."""
    name = _sniff(content)
    return _SUFFIXES.get(name, f".{name.lower()}") if name else ""


def _sniff(content: bytes) -> str | None:
    return next((name for name, (magic, _) in _READERS.items() if re.match(magic, content, re.DOTALL)), None)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Pillow raises OSError, ValueError, SyntaxError, struct.error and more for damaged files."""
    try:
        yield
    except (InvalidImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # WebP, before its size is known to us
        raise InvalidImageError(f"over the limit of {MAX_IMAGE_PIXELS // 10**6} megapixels") from error
    except Exception as error:
        raise InvalidImageError(f"truncated or damaged ({one_line(error)})") from error


@contextmanager
def _open_image(content: bytes) -> Iterator[tuple[Image.Image, int]]:
    """The image, of a size within the limits and as stored, with its EXIF orientation.

    A JPEG is not loaded yet: it may be drafted. Others cannot, and TIFF turns itself, and PNG knows its EXIF only then.
    """
    image = _parse_headers(content)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        yield image, read_orientation(image)
        return
    with _reserve(estimate_decoded_size(image, content), image.format, image.size):
        with _one_line_errors():
            loaded = load_pixels(image)
        yield loaded, read_orientation(loaded)


@contextmanager
def _reserve(needed: int, kind: str | None, size: tuple[int, int]) -> Iterator[None]:
    """Takes `needed` bytes of the room for decoding while the block runs."""
    if not _ROOM.can_hold(needed):
        problem = f"{size[0]}x{size[1]} takes {size_in_words(needed)} to decode as {kind}"
        raise InvalidImageError(f"{problem}, over the limit of {size_in_words(_ROOM.total)}; send a smaller one")
    with _ROOM.hold(needed):
        yield


@_one_line_errors()
def _parse_headers(content: bytes) -> ImageFile.ImageFile:
    """The image whose headers were read, and no pixel yet."""
    if not content:
        raise InvalidImageError("empty file")
    name = _sniff(content)
    if name is None:
        what = f" but {kind}" if (kind := describe_content(content)) else ""
        raise InvalidImageError(f"not an image of a supported format ({', '.join(IMAGE_FORMATS)}){what}")
    if name == "PPM":
        # Pillow removes the comments of a text PPM one by one, in quadratic time: 64 MiB of them would take hours
        content = re.sub(rb"#[^\r\n]*", b"", content) if content[1:2] in b"123" else content
    check_structure(name, content)
    image = _READERS[name][1](io.BytesIO(content))
    width, height = image.size
    slow = any(tile[0] in ("ppm", "ppm_plain", "bmp_rle") for tile in image.tile)
    limit = MAX_SLOW_PIXELS if slow else MAX_IMAGE_PIXELS
    if width * height > limit:
        size = f"{width}x{height} is {math.ceil(width * height / 10**6)} megapixels"
        kind = f" for this kind of {image.format}; save it as PNG" if slow else ""
        raise InvalidImageError(f"{size}, over the limit of {limit // 10**6}{kind}")
    check_work(image, content, MAX_IMAGE_PIXELS)
    return image


@_one_line_errors()
def _resample(
    image: Image.Image, content: bytes, orientation: int, region: Region, size: tuple[int, int]
) -> Image.Image:
    """Resamples before it turns: a few pixels are turned instead of all."""
    target = swap_size(size, orientation)
    left, top, right, bottom = as_stored(region, image.size, orientation)
    with _draft(image, content, (right - left, bottom - top), target) as scale:
        box = left / scale, top / scale, right / scale, bottom / scale
        return turn_upright(rgb(image).resize(target, Image.Resampling.BILINEAR, box=box), orientation)


@contextmanager
def _draft(
    image: Image.Image, content: bytes, region_size: tuple[float, float], target: tuple[int, int]
) -> Iterator[int]:
    """Lets the JPEG decoder scale by 1/scale, with at least `target` pixels left of `region_size`. Yields scale.

    Pixel i of the draft covers pixels [i * scale, (i + 1) * scale), also where the size was rounded up. Memory for that
    is reserved while the block runs. For other formats scale is 1, and all is loaded.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        yield 1
        return
    size = image.size
    most = min(region_size[0] / target[0], region_size[1] / target[1])
    scale = next((scale for scale in (8, 4, 2) if scale <= most), 1)
    if scale > 1 and not image.draft(None, (image.width // scale, image.height // scale)):
        scale = 1
    with _reserve(estimate_decoded_size(image, content, scale), image.format, size):
        yield scale
