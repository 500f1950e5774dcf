"""Converts an image as it is stored to what a person sees: upright, in mode RGB, on white.

On ambiguous files we follow browsers, not Pillow. Colors are not managed: as in the
libraries that pretrained weights come from, ICC profiles and PNG's gamma are left aside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decoding.cost import check_tags

Region = tuple[float, float, float, float]

# Raw mode of a PNG -> the transparent color as its pixels are decoded, from the color that the file names.
_TRANSPARENT: dict[Any, Callable[[Any], Any]] = {
    "L;2": lambda level: level * 85,
    "L;4": lambda level: level * 17,
    "RGB;16B": lambda color: tuple(value >> 8 for value in color),
}
# EXIF's orientation (EXIF 2.32, tag 274) -> what turns the stored picture into the one a person sees.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
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


def read_orientation(image: Image.Image) -> int:
    """Returns the orientation, 1 (as stored) to 8; 1 if the EXIF is damaged."""
    try:
        check_tags(image.info.get("exif", b"").removeprefix(b"Exif\0\0"), 2**20)
        orientation = image.getexif().get(274)
    except Exception:
        return 1
    return orientation if orientation in _TURNS else 1


def swap_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Converts a size between stored and upright."""
    return (size[1], size[0]) if orientation >= 5 else size


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the upright picture."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def as_stored(region: Region, size: tuple[int, int], orientation: int) -> Region:
    """Converts a region (left, top, right, bottom) from the upright to the stored picture of `size`."""
    left, top, right, bottom = region
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 7, 8):
        left, right = size[0] - right, size[0] - left
    if orientation in (3, 4, 6, 7):
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom
