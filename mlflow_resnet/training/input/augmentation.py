"""Augmentation of training images.

In two steps: `prepare` makes an array of an image file, always the same, which a cache can keep; `draw` makes the
image of one epoch of it. The order, by torchvision's names:

    Resize, Grayscale                                                          prepare
    CenterCrop or RandomCrop or RandomResizedCrop, Pad                         prepare if central, otherwise draw
    RandomHorizontalFlip, RandomVerticalFlip,                                  draw
    ColorJitter, RandomRotation, RandomAffine, RandomGrayscale, RandomPerspective,
    RandAugment or TrivialAugmentWide, RandomErasing

This is the designer's order, except that it pads after a random crop too, so that every image has its border, and that
Grayscale and the flips come earlier, where they cost less. What rotation, perspective and erasing leave empty is black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.transforms import v2

from mlflow_resnet.images.decoding.decode import decode
from mlflow_resnet.model.preprocessing import Preprocessing, to_array, to_tensor
from mlflow_resnet.training.input.randomness import Seeded

# Shorter edge of what is kept for random resized crops, in training images. A crop of less than 1 / 1.5² of a square
# image is enlarged: 4 of 10. Crops of 12 photographs of 1024 pixels kept 91 % of the differences between neighboring
# pixels (83 % with 1.0; 95 % with 2.0, in 1.8 times the memory). ImageNet's own photographs have about 1.7.
STORE_FACTOR = 1.5
SHIFTS = [0.1, 0.1]  # of RandomAffine, as fractions of width and height
ASPECT_RATIOS = (3 / 4, 4 / 3)
REGION_TRIES = 10

Steps = list[tuple[str, dict[str, Any]]]
PixelRegion = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Augmentation:
    """Settings of augmentation. What is drawn depends on the seed alone, never on threads or on their order.

    Attributes:
        train_crop_size: pixels of the crop in training; it may differ from the preprocessing's.
        random_crop: a square of the central one's size at any place; takes the place of random_resized_crop.
        color_jitter: the largest relative change of brightness, contrast and saturation. Hue stays: it tells many
            classes apart, and changing it takes four times as long as the other three together.

    The others are the options of `train` of these names.
    """

    preprocessing: Preprocessing
    train_crop_size: int
    random_resized_crop: bool = True
    min_crop_area: float = 0.08
    random_crop: bool = False
    random_horizontal_flip: bool = True
    random_vertical_flip: bool = False
    rotation_degrees: float = 0.0
    affine_degrees: float = 0.0
    color_jitter: float = 0.0
    random_grayscale: float = 0.0
    random_perspective: float = 0.0
    random_erasing: float = 0.0
    auto_augment: str = "none"

    @property
    def is_random(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        return self._crops_randomly or self.random_horizontal_flip or self.random_vertical_flip or bool(self._v2_steps)

    def prepare(self, content: bytes) -> np.ndarray:
        """Bytes of an image file to uint8 of shape (H, W, 3): the whole image, never enlarged, or the central crop.

        Raises:
            InvalidImageError: if the image cannot be read.
        """
        if not self._crops_randomly:
            return self._central.prepare(content)
        image = to_array(decode(content, self._shorter_edge), self.preprocessing.grayscale)
        return shrink_image(image, self._shorter_edge)

    def prepare_settings(self) -> dict[str, Any]:
        """All that the result of `prepare` depends on besides the file, ready for JSON."""
        if self._crops_randomly:
            return {"shorter_edge": self._shorter_edge, "grayscale": self.preprocessing.grayscale}
        names = ("resize_size", "crop_size", "padding", "grayscale")
        return {name: getattr(self._central, name) for name in names}

    def draw(self, image: np.ndarray, seed: str) -> Tensor:
        """Returns a prepared image as augmented in one epoch: uint8 of shape (3, S, S), S the crop and its padding.

        Args:
            seed: the image's and epoch's own, such as "random_seed/epoch/index".
        """
        random, size = Random(seed), self.train_crop_size
        height, width = image.shape[:2]
        if self._crops_randomly:
            if self._crops_any_size:
                left, top, right, bottom = random_region(width, height, self.min_crop_area, random)
            else:
                left, top, right, bottom = random_window(width, height, size / self._central.resize_size, random)
            crop = resize_image(image[top:bottom, left:right], size, size)
            drawn = pad(to_tensor(crop), [self.preprocessing.padding] * 4)
        else:
            drawn = to_tensor(image.copy())
        drawn = drawn.contiguous()  # stacked ten times as fast
        if self.random_horizontal_flip and random.random() < 0.5:
            drawn = drawn.flip(2)
        if self.random_vertical_flip and random.random() < 0.5:
            drawn = drawn.flip(1)
        if not self._v2_steps:
            return drawn
        with Seeded(random.getrandbits(64)):
            return self._v2_transforms(drawn)

    def as_list(self) -> list[dict[str, Any]]:
        """torchvision's transforms and their arguments in the order applied, ready for JSON.

        Before a random crop, Resize only ever reduces.
        """
        size = self.train_crop_size
        area = {"scale": [self.min_crop_area, 1.0], "ratio": list(ASPECT_RATIOS)}
        first_steps = select_steps(
            (True, "Resize", {"size": self._shorter_edge}),
            (self.preprocessing.grayscale, "Grayscale", {"num_output_channels": 3}),
            (not self._crops_randomly, "CenterCrop", {"size": size}),
            (self.random_crop, "RandomCrop", {"size": size}),
            (self._crops_any_size, "RandomResizedCrop", {"size": size, **area}),
            (self.preprocessing.padding, "Pad", {"padding": self.preprocessing.padding}),
            (self.random_horizontal_flip, "RandomHorizontalFlip", {"p": 0.5}),
            (self.random_vertical_flip, "RandomVerticalFlip", {"p": 0.5}),
        )
        return [{"name": name, **arguments} for name, arguments in first_steps + self._v2_steps]

    @property
    def _crops_randomly(self) -> bool:
        return self.random_resized_crop or self.random_crop

    @property
    def _crops_any_size(self) -> bool:
        return self.random_resized_crop and not self.random_crop

    @property
    def _central(self) -> Preprocessing:
        resize_size = max(self.preprocessing.resize_size, self.train_crop_size)
        return replace(self.preprocessing, resize_size=resize_size, crop_size=self.train_crop_size)

    @property
    def _shorter_edge(self) -> int:
        """Pixels that Resize leaves at most."""
        return round(STORE_FACTOR * self.train_crop_size) if self._crops_any_size else self._central.resize_size

    @cached_property
    def _v2_steps(self) -> Steps:
        jitter = dict.fromkeys(("brightness", "contrast", "saturation"), self.color_jitter)
        smooth = {"interpolation": v2.InterpolationMode.BILINEAR.value}
        return select_steps(
            (self.color_jitter, "ColorJitter", jitter),
            (self.rotation_degrees, "RandomRotation", {"degrees": self.rotation_degrees, **smooth}),
            (self.affine_degrees, "RandomAffine", {"degrees": self.affine_degrees, "translate": SHIFTS, **smooth}),
            (self.random_grayscale, "RandomGrayscale", {"p": self.random_grayscale}),
            (self.random_perspective, "RandomPerspective", {"p": self.random_perspective, **smooth}),
            (self.auto_augment == "randaugment", "RandAugment", smooth),
            (self.auto_augment == "trivialaugment", "TrivialAugmentWide", smooth),
            (self.random_erasing, "RandomErasing", {"p": self.random_erasing}),
        )

    @cached_property
    def _v2_transforms(self) -> v2.Compose:
        return v2.Compose([build_transform(name, arguments) for name, arguments in self._v2_steps])


def select_steps(*steps: tuple[object, str, dict[str, Any]]) -> Steps:
    """The steps whose first value is true, without it."""
    return [(name, arguments) for is_wanted, name, arguments in steps if is_wanted]


def build_transform(name: str, arguments: dict[str, Any]) -> v2.Transform:
    """The transform of torchvision that `Augmentation.as_list` describes."""
    if "interpolation" in arguments:
        arguments = arguments | {"interpolation": v2.InterpolationMode(arguments["interpolation"])}
    return getattr(v2, name)(**arguments)


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
    lowest, highest = ASPECT_RATIOS  # none fitted, so the largest central one
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
