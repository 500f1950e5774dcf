"""Random region and flip of one training image, drawn from a generator that belongs to that image and epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from torch import Tensor

from mlflow_resnet.images.decode import Region, read_region
from mlflow_resnet.model.preprocessing import Preprocessing, to_tensor

AREA_FRACTIONS = (0.08, 1.0)
ASPECT_RATIOS = (3 / 4, 4 / 3)
TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image instead of the preprocessing's central crop.

    Drawing depends on (seed, epoch, index) alone, never on threads or on the order of loading.
    """

    preprocessing: Preprocessing
    random_resized_crop: bool = True
    random_horizontal_flip: bool = True

    def load(self, content: bytes, random: Random) -> Tensor:
        """Bytes of an image file to uint8 of shape (3, crop_size, crop_size).

        Raises:
            InvalidImageError: if the image cannot be read.
        """

        def choose_region(width: int, height: int) -> Region:
            if self.random_resized_crop:
                return random_region(width, height, random)
            return self.preprocessing.center_region(width, height)

        size = (self.preprocessing.crop_size, self.preprocessing.crop_size)
        image = to_tensor(read_region(content, choose_region, size))
        return image.flip(2) if self.random_horizontal_flip and random.random() < 0.5 else image


def random_region(width: int, height: int, random: Random) -> Region:
    """A region of 8 to 100 % of the area with an aspect ratio of 3:4 to 4:3.

    The algorithm of torchvision's `RandomResizedCrop`, which draws from torch's global generator and so cannot be
    made to depend on the image alone.
    """
    for _ in range(TRIES):
        area = width * height * random.uniform(*AREA_FRACTIONS)
        ratio = math.exp(random.uniform(*map(math.log, ASPECT_RATIOS)))
        region_width, region_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < region_width <= width and 0 < region_height <= height:
            left, top = random.randint(0, width - region_width), random.randint(0, height - region_height)
            return left, top, left + region_width, top + region_height
    return largest_central_region(width, height)


def largest_central_region(width: int, height: int) -> Region:
    """The largest central region with an aspect ratio of 3:4 to 4:3."""
    lowest, highest = ASPECT_RATIOS
    region_width, region_height = min(width, height * highest), min(height, width / lowest)
    left, top = (width - region_width) / 2, (height - region_height) / 2
    return left, top, left + region_width, top + region_height
