"""Converts an image's stored values to mode RGB on white.

On ambiguous files we follow browsers, not Pillow. Colors are not managed: as in the
libraries that pretrained weights come from, ICC profiles and PNG's gamma are left aside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from mlflow_resnet.errors import InvalidImageError

# Raw mode of a PNG -> the transparent color as its pixels are decoded, from the color that the file names.
_TRANSPARENT: dict[Any, Callable[[Any], Any]] = {
    "L;2": lambda level: level * 85,
    "L;4": lambda level: level * 17,
    "RGB;16B": lambda color: tuple(value >> 8 for value in color),
}


def load_pixels(image: ImageFile.ImageFile) -> Image.Image:
    """The image with its pixels read."""
    tile = image.tile[0] if image.tile else None  # WebP has none
    image.load()
    if tile and image.format == "GIF" and tile.extents != (0, 0, *image.size):
        canvas = Image.new("RGB", image.size, "white")  # nothing is around the frame, and not the background color
        canvas.paste(rgb(image.crop(tile.extents)), tile.extents)
        return canvas
    if tile and image.format == "PNG" and tile.args in _TRANSPARENT and "transparency" in image.info:
        image.info["transparency"] = _TRANSPARENT[tile.args](image.info["transparency"])
    return image


def rgb(image: Image.Image) -> Image.Image:
    """The loaded image in mode RGB, on white. Raises InvalidImageError if its range of brightness is unknown."""
    if image.mode.startswith(("I", "F")):
        image = _gray(image)
    elif image.has_transparency_data:
        if image.mode == "La":  # the one mode with alpha that Pillow does not convert to RGBA
            image = image.convert("LA")
        picture = image.convert("RGBA")
        image = Image.new("RGB", picture.size, "white")
        image.paste(picture, mask=picture.getchannel("A"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _gray(image: Image.Image) -> Image.Image:
    """A 16-bit gray image with its whole range of brightness mapped to 0..255; Pillow's `convert` would clip it."""
    sixteen_bits = image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")
    if not sixteen_bits:
        raise InvalidImageError("the brightness range of a 32-bit or signed image is unknown; save it as 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    brightest = 4095 if tags.get(258) == (12,) else 65535  # BitsPerSample
    values = np.asarray(image).astype(np.uint32)
    gray = ((values * 255 + brightest // 2) // brightest).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: white is zero
        gray = 255 - gray
    if (transparent := image.info.get("transparency")) is not None:
        gray[values == transparent] = 255
    return Image.fromarray(gray)
