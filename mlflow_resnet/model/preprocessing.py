"""From the bytes of an image to what the network takes. Training, scoring and serving share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.images.decode import Region, read_region

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter edge to `resize_size` pixels, cut the central square of `crop_size` pixels, normalize.

    The same as torchvision's `ImageClassification` preset, in one resampling step.
    """

    resize_size: int = 256
    crop_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def center_region(self, width: int, height: int) -> Region:
        """The square of a width x height image that the network sees: (left, top, right, bottom)."""
        side = min(width, height) * self.crop_size / self.resize_size
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def load(self, content: bytes) -> Tensor:
        """Bytes of an image file to uint8 of shape (3, crop_size, crop_size).

        Raises:
            InvalidImageError: if the image cannot be read.
        """
        return to_tensor(read_region(content, self.center_region, (self.crop_size, self.crop_size)))

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 of shape (N, 3, H, W) to float32 of the same shape, with zero mean and unit variance on ImageNet."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1) * 255
        return (images.float() - mean) / std


def to_tensor(image: object) -> Tensor:
    """An RGB picture to uint8 of shape (3, height, width)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
