"""Random regions of an image, (left, top, right, bottom) in pixels, and the resampling of images."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import torch
from torch.nn.functional import interpolate

ASPECT_RATIOS = (3 / 4, 4 / 3)
REGION_TRIES = 10

PixelRegion = tuple[int, int, int, int]


def random_region(width: int, height: int, min_area: float, random: Random) -> PixelRegion:
    """A region of `min_area` to 1 of the area with an aspect ratio of 3:4 to 4:3.

    The algorithm of torchvision's `RandomResizedCrop`.
    """
    for _ in range(REGION_TRIES):
        area = width * height * random.uniform(min_area, 1)
        ratio = math.exp(random.uniform(*map(math.log, ASPECT_RATIOS)))
        region_width, region_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < region_width <= width and 0 < region_height <= height:
            left, top = random.randint(0, width - region_width), random.randint(0, height - region_height)
            return left, top, left + region_width, top + region_height
    return largest_central_region(width, height)


def largest_central_region(width: int, height: int) -> PixelRegion:
    """The largest central region with an aspect ratio of 3:4 to 4:3."""
    lowest, highest = ASPECT_RATIOS
    region_width, region_height = min(width, round(height * highest)), min(height, round(width / lowest))
    left, top = (width - region_width) // 2, (height - region_height) // 2
    return left, top, left + region_width, top + region_height


def random_window(width: int, height: int, fraction: float, random: Random) -> PixelRegion:
    """A square whose side is `fraction` of the shorter edge, but at least a pixel, as of torchvision's `RandomCrop`."""
    side = max(round(min(width, height) * fraction), 1)
    left, top = random.randint(0, width - side), random.randint(0, height - side)
    return left, top, left + side, top + side


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 of shape (H, W, 3), resampled to shape (height, width, 3).

    torch does it three times as fast as Pillow, within a level or two of 255.
    """
    batch = torch.from_numpy(image.copy())[None].permute(0, 3, 1, 2)  # a copy: torch warns of read-only arrays
    result = interpolate(batch, size=(height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(result[0].permute(1, 2, 0).numpy())


def shrink_image(image: np.ndarray, shorter_edge: int) -> np.ndarray:
    """uint8 of shape (H, W, 3) in its aspect ratio, its shorter edge `shorter_edge` pixels or what it has if less."""
    height, width = image.shape[:2]
    scale = shorter_edge / min(height, width)
    return image if scale >= 1 else resize_image(image, round(height * scale), round(width * scale))
