"""Labeled images, their order in an epoch and their batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.images.cache import PreparedImages
from mlflow_resnet.io.parallel import ahead, map_ordered
from mlflow_resnet.training import processes
from mlflow_resnet.training.input.augmentation import Augmentation

TRAINING_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class LabeledImages:
    """Images as uint8 arrays of shape (H, W, 3), and their class indices, int of shape (N,)."""

    images: PreparedImages
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class TrainingImages:
    """Images to train on, how they are augmented, and in what order they come.

    Attributes:
        draw_weights: relative frequency of each image in an epoch, float of shape (N,); None: each image once.
    """

    data: LabeledImages
    augmentation: Augmentation
    random_seed: int
    draw_weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.data)

    def load(self, epoch: int, index: int) -> Tensor:
        """Image `index` as augmented in `epoch`: uint8 of shape (3, size, size)."""
        return self.augmentation.draw(self.data.images[index], f"{self.random_seed}/{epoch}/{index}")

    def batches(
        self, epoch: int, batch_size: int, threads: int, done: int = 0, pin: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of each batch of an epoch: uint8 (n, 3, size, size), channels last, and int64 (n,).

        The last batch is dropped if it is not full, as in the designer: batch norm needs more than one image.

        Args:
            batch_size: images of all processes together.
            done: batches to leave out, from the first on.
            pin: whether to copy batches to page-locked memory, from which a GPU copies without waiting.
        """
        own = self.own_order(epoch, batch_size, done)
        images = map_ordered(lambda index: self.load(epoch, index), own, threads)
        return ahead(self.collate(images, own, batch_size // processes.world_size(), pin), TRAINING_BATCHES_AHEAD)

    def own_order(self, epoch: int, batch_size: int, done: int = 0) -> list[int]:
        """Indices of this process's images in the full batches of an epoch, without the first `done` batches."""
        order = self.order(epoch)[done * batch_size : len(self) // batch_size * batch_size]
        return [order[i] for i in processes.own_share(len(order))]

    def order(self, epoch: int) -> list[int]:
        """Indices of an epoch: all of them, shuffled, or drawn with `draw_weights`."""
        random = Random(f"{self.random_seed}/{epoch}")
        if self.draw_weights is not None:
            return random.choices(range(len(self)), self.draw_weights.tolist(), k=len(self))
        return random.sample(range(len(self)), len(self))

    def collate(
        self, images: Iterator[Tensor], indices: Sequence[int], batch_size: int, pin: bool
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Stacks `images`, which are those at `indices`."""
        for start in range(0, len(indices), batch_size):
            batch = torch.stack(list(islice(images, batch_size))).contiguous(memory_format=torch.channels_last)
            targets = torch.from_numpy(self.data.targets[indices[start : start + batch_size]])
            yield (batch.pin_memory(), targets.pin_memory()) if pin else (batch, targets)


def class_weights(targets: np.ndarray, balance: str, num_classes: int) -> Tensor | None:
    """Loss weights, float32 of shape (num_classes,): 1/n (balanced) or 1/sqrt(n) (sqrt) of a class's n images.

    Scaled so that the mean over the images is 1, which keeps the size of the loss. None for other kinds of balance.
    """
    if balance not in ("sqrt", "balanced"):
        return None
    counts = np.maximum(np.bincount(targets, minlength=num_classes), 1)
    weights = 1 / (np.sqrt(counts) if balance == "sqrt" else counts)
    return torch.tensor(weights / weights[targets].mean(), dtype=torch.float32)


def draw_weights(targets: np.ndarray, balance: str) -> np.ndarray | None:
    """How often the sampler draws each image: inversely to the size of its class. None for other kinds of balance."""
    return 1 / np.bincount(targets)[targets] if balance == "sampler" else None
