"""From the bytes of an image to the network's input. Training, scoring and serving share it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mlflow_resnet.images.decoding.decode import Region, read_region

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter edge to `resize_size` pixels, cut the central square of `crop_size` pixels, normalize.

    The same as torchvision's `ImageClassification` preset, in one resampling step. The designer's two other
    operations that are not random come before the normalization, in scoring as in training: `padding` pixels of black
    on each side, and `grayscale`, which makes the three channels equal.
    """

    resize_size: int = 256
    crop_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    padding: int = 0
    grayscale: bool = False

    @property
    def image_size(self) -> int:
        """Pixels of each side of the square that the network sees."""
        return self.crop_size + 2 * self.padding

    def at_resolution(self, crop_size: int) -> Preprocessing:
        """Returns preprocessing of the same part of an image to another number of pixels.

        Objects appear larger in random resized crops than in center crops, so many networks do better on images that
        are somewhat larger than those of the training: H. Touvron et al., Fixing the train-test resolution
        discrepancy, NeurIPS 2019.
        """
        scale = crop_size / self.crop_size
        resize_size, padding = round(self.resize_size * scale), round(self.padding * scale)
        return replace(self, resize_size=resize_size, crop_size=crop_size, padding=padding)

    def center_region(self, width: int, height: int) -> Region:
        """The central square of a width x height image that is kept: (left, top, right, bottom)."""
        side = min(width, height) * self.crop_size / self.resize_size
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def prepare(self, content: bytes) -> np.ndarray:
        """Bytes of an image file to uint8 of shape (image_size, image_size, 3).

        Raises:
            InvalidImageError: if the image cannot be read.
        """
        image = read_region(content, self.center_region, (self.crop_size, self.crop_size))
        return to_array(ImageOps.expand(image, self.padding) if self.padding else image, self.grayscale)

    def load(self, content: bytes) -> Tensor:
        """The same as `prepare`, as a tensor of shape (3, image_size, image_size)."""
        return to_tensor(self.prepare(content))

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 of shape (N, 3, H, W) to float32 of the same shape, with zero mean and unit variance on ImageNet."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1) * 255
        return (images - mean).div_(std)


def to_array(image: Image.Image, grayscale: bool) -> np.ndarray:
    """An RGB picture to uint8 of shape (height, width, 3), its channels made equal if `grayscale`."""
    return np.array(image.convert("L").convert("RGB") if grayscale else image)


def to_tensor(image: np.ndarray) -> Tensor:
    """The view of shape (3, height, width) of an array of shape (height, width, 3)."""
    return torch.from_numpy(image).permute(2, 0, 1)
