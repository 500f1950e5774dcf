"""Mixes the images of a batch with each other, and their targets in the same proportion."""

from __future__ import annotations

from random import Random

from torch import Tensor
from torchvision.transforms import v2

from mlflow_resnet.training.input.randomness import Seeded


class Mixing:
    """torchvision's MixUp and CutMix; if both are on, each batch takes one of them at random.

    Args:
        mixup: alpha of the Beta distribution of the proportion; 0 is off (https://arxiv.org/abs/1710.09412).
        cutmix: the same for CutMix (https://arxiv.org/abs/1905.04899).
        num_classes: the number of classes C.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        wanted = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        self.transform = v2.RandomChoice(wanted) if wanted else None

    def __call__(self, images: Tensor, targets: Tensor, seed: str) -> tuple[Tensor, Tensor]:
        """Images of shape (N, 3, H, W) and int64 targets of shape (N,), mixed: float32, and probabilities (N, C).

        With nothing on, both are returned as they are. The result depends on the arguments alone, not on a thread.

        Args:
            seed: the batch's own, such as "random_seed/epoch/batch".
        """
        if self.transform is None:
            return images, targets
        with Seeded(Random(seed).getrandbits(64)):
            return self.transform(images.float(), targets)
