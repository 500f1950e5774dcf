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
