"""EXIF orientation: from stored pixels to the upright picture (EXIF 2.32, tag 274)."""

from __future__ import annotations

from PIL import Image

from mlflow_resnet.images.decoding.cost import check_tags

Region = tuple[float, float, float, float]

# Orientation -> what turns the stored picture into the one a person sees.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
