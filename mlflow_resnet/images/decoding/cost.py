"""Bounds the cost of decoding a file from its structure, before it is decoded.

Pixels alone do not tell: a JPEG of 2 MB can have its picture refined 16,000 times, and Pillow walks the segments of a
file in Python, a second for each million. Files of cameras and programs have a few hundred segments, and 10 scans.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from PIL import ImageFile

from mlflow_resnet.errors import InvalidImageError

MAX_SCANS = 200  # of a JPEG; programs write about 10, and a script for them has seldom 100
MAX_SCANNED_PIXELS = 40 * 64_000_000  # a scan of nothing takes about 0.15 nanoseconds a pixel
MAX_SEGMENTS = 50_000  # chunks of a PNG, blocks of a GIF, segments of a JPEG; Pillow takes microseconds for each
MAX_HEADERS = 5000  # segments of a JPEG before its picture; a color profile has up to 255
MAX_PADDING_BYTES = 2**16  # between the segments of a JPEG
MAX_EXIF_BYTES = 2**17
MAX_SLOW_BYTES = 2 * 2**20  # of the BMP variants that Pillow decodes in Python

_PLAIN_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_SCAN, _EXIF = b"\xff\xda", b"Exif\0\0"
_WITHOUT_LENGTH, _END = frozenset((0x01, 0xD8, 0xD9)), 0xD9
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_ARITHMETIC_OR_LOSSLESS = frozenset((0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what is left out stands for itself in the data of a scan
_JPEG_IN_TIFF = (6, 7)
_BYTES_OF_TAG = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def estimate_decoded_size(image: ImageFile.ImageFile, content: bytes, scale: int = 1) -> int:
    """Bytes that decoding an opened image and turning it takes at most, as was measured for each kind.

    Args:
        scale: at which a JPEG is drafted, 1/scale.
    """
    pixels = image.width * image.height
    if image.format == "WEBP":
        return 22 * pixels
    if image.format in ("JPEG", "MPO"):  # the coefficients of all its pixels are kept until the last scan
        return 10 * pixels + (0 if _has_one_scan(content) else 8 * pixels * scale**2)
    is_plain = image.mode in _PLAIN_MODES and not image.has_transparency_data and b"tRNS" not in content
    return (10 if is_plain else 16) * pixels


def check_structure(kind: str, content: bytes) -> None:
    """Raises InvalidImageError if opening a file of format `kind` would cost too much."""
    if check := _CHECKS.get(kind):
        check(content)


def check_work(image: ImageFile.ImageFile, content: bytes, max_pixels: int) -> None:
    """Raises InvalidImageError if decoding an opened image, of a size within the limits, would cost too much."""
    if image.format in ("JPEG", "MPO"):
        limit = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(image.width * image.height, 1))
        if not _has_one_scan(content) and content.count(_SCAN) > limit and _scans_of_picture(content) > limit:
            raise InvalidImageError(f"more than {limit} scans for one picture; save it anew")
    elif image.format == "BMP" and any(tile[0] == "bmp_rle" for tile in image.tile) and len(content) > MAX_SLOW_BYTES:
        raise InvalidImageError(f"over {MAX_SLOW_BYTES // 2**20} MiB of this kind of BMP; save it as PNG")
    elif image.format == "TIFF":
        _check_tiles(image, content, max_pixels)


def _check_tiles(image: ImageFile.ImageFile, content: bytes, max_pixels: int) -> None:
    """A TIFF of one pixel may be in a tile of gigabytes, and each tile or strip may be a JPEG with many scans."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322, image.width), tags.get(323, min(tags.get(278, image.height), image.height))
    if not (isinstance(width, int) and isinstance(height, int) and width * height <= max_pixels):
        raise InvalidImageError(f"its tiles of {width}x{height} are over the limit of {max_pixels // 10**6} megapixels")
    scans = content.count(_SCAN) if tags.get(259) in _JPEG_IN_TIFF else 0
    if scans * width * height > MAX_SCANNED_PIXELS:
        raise InvalidImageError(f"{scans} scans of JPEG in a TIFF; save it as PNG")


def _has_one_scan(content: bytes) -> bool:
    """Returns whether the first scan of a JPEG is complete, so that no other needs decoding."""
    components = 0
    for marker, begin, _ in _segments(content):
        if marker in _SEQUENTIAL:
            components = max(components, content[begin + 7])
        elif marker == _PROGRESSIVE:
            return False
        elif marker == _SCAN[1]:
            return content[begin + 2] == components
    return False


def _scans_of_picture(content: bytes) -> int:
    """Counts the scans before the picture's end, without those in metadata.

    What follows the picture is not decoded: a second one, or a film.
    """
    scans = 0
    for number, (marker, _, _) in enumerate(_segments(content)):
        scans += marker == _SCAN[1]
        if number > MAX_SEGMENTS or (scans and marker == _END):
            break
    return scans


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment of a JPEG, and where its content begins and ends."""
    position = 2
    while found := _MARKER.search(content, position):
        begin, marker = found.end(), content[found.end() - 1]
        length = 0 if marker in _WITHOUT_LENGTH else int.from_bytes(content[begin : begin + 2], "big")
        yield marker, begin, begin + length
        position = begin + max(length, 0 if marker in _WITHOUT_LENGTH else 2)


def _check_jpeg(content: bytes) -> None:
    """Looks at the segments before the first scan."""
    expected, padding, exif = 2, 0, b""
    for number, (marker, begin, end) in enumerate(_segments(content)):
        padding += begin - 2 - expected
        expected = end
        if marker in _ARITHMETIC_OR_LOSSLESS:
            raise InvalidImageError("an arithmetic-coded or lossless JPEG, which few programs read; save it as PNG")
        if padding > MAX_PADDING_BYTES or number > MAX_HEADERS:
            raise InvalidImageError(f"over {MAX_HEADERS} segments, or {MAX_PADDING_BYTES} bytes between them")
        if marker == _SCAN[1]:
            return
        if marker == 0xE1 and content.startswith(_EXIF, begin + 2):
            exif += content[begin + 2 + len(_EXIF) : end]
            check_tags(exif)
        elif marker == 0xE2 and content.startswith(b"MPF\0", begin + 2):
            check_tags(content[begin + 6 : end])
    if len(content) - expected > MAX_PADDING_BYTES:
        raise InvalidImageError("truncated or damaged (no picture in it)")


def check_tags(block: bytes, limit: int = MAX_EXIF_BYTES) -> None:
    """Raises InvalidImageError if the tags of a TIFF or of EXIF are larger than `block`: their values may overlap."""
    if len(block) > limit:
        raise InvalidImageError(f"over the limit of {limit // 2**10} KiB of EXIF")
    order = "<" if block[:1] == b"I" else ">"
    big = block[2:4] in (b"+\0", b"\0+")
    count_form, entry_form = (f"{order}Q", f"{order}HHQQ") if big else (f"{order}H", f"{order}HHII")
    try:
        place = struct.unpack_from(f"{order}Q" if big else f"{order}I", block, 8 if big else 4)[0]
        count = struct.unpack_from(count_form, block, place)[0]
        begin, size = place + struct.calcsize(count_form), struct.calcsize(entry_form)
        entries = block[begin : begin + min(count, MAX_SEGMENTS + 1) * size]
        total = 0
        for _, kind, values, _ in struct.iter_unpack(entry_form, entries[: len(entries) // size * size]):
            total += _BYTES_OF_TAG.get(kind, 0) * values
    except (struct.error, OverflowError):
        return  # damaged: the decoder says so, or does without
    if total > 2 * len(block) + 2**16 or count > MAX_SEGMENTS:
        raise InvalidImageError("its tags are many, or larger than what holds them")


def _check_png(content: bytes) -> None:
    position = 8
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(content) or content[position + 4 : position + 8] == b"IEND":
            return
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    raise InvalidImageError(f"over the limit of {MAX_SEGMENTS} chunks")


def _check_gif(content: bytes) -> None:
    """Counts the blocks before the first picture, and what they are made of."""
    flags = content[10] if len(content) > 10 else 0
    position, in_block = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0), False
    for _ in range(MAX_SEGMENTS):
        if position >= len(content):
            return
        size = content[position]
        if in_block:
            position, in_block = position + size + 1, size > 0
        elif size in (0x2C, 0x3B):  # a picture, or the end
            return
        else:
            in_block = size == 0x21
            position += 2 if in_block else 1
    raise InvalidImageError(f"over the limit of {MAX_SEGMENTS} blocks before the picture")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "TIFF": lambda content: check_tags(content, len(content)),
}
