"""Pictures and files that the tests make."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(image: Image.Image, orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(image, kind, exif=exif, **options)


def png(width: int, height: int, bits: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand: `rows` are uncompressed scan lines, `extra` whole chunks before the data."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows)) if rows else chunk(b"IDAT", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def photo(width: int, height: int) -> Image.Image:
    """A smooth color picture without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    bands = [128 + 100 * np.sin(x / 37 + y / 91), 255 * x / width, 255 * y / height]
    return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))


TIFF_DATA = 4096  # where the data of a TIFF begins


def tiff(width: int, height: int, data: bytes, tags: dict[int, list[int]], endian: str = "<") -> bytes:
    """An uncompressed TIFF written by hand: gray of 8 bits, unless `tags` (number -> values) say something else."""
    usual = {256: [width], 257: [height], 258: [8], 259: [1], 262: [1], 273: [TIFF_DATA], 277: [1]}
    all_tags = usual | {278: [height], 279: [len(data)]} | tags
    entries, extra, place_of_extra = b"", b"", 8 + 2 + 12 * len(all_tags) + 4
    for tag, values in sorted(all_tags.items()):
        place = packed = struct.pack(f"{endian}{len(values)}H", *values)
        if len(packed) > 4:
            place, extra = struct.pack(f"{endian}I", place_of_extra + len(extra)), extra + packed
        entries += struct.pack(f"{endian}HHI", tag, 3, len(values)) + place.ljust(4, b"\0")
    magic = b"II*\0" if endian == "<" else b"MM\0*"
    header = magic + struct.pack(f"{endian}IH", 8, len(all_tags)) + entries + bytes(4)
    return (header + extra).ljust(TIFF_DATA, b"\0") + data
