"""Labeled images, their order in an epoch and their batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.errors import BadImagesError, InvalidImageError, printable
from mlflow_resnet.images.decode import read_bytes
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.parallel import map_ordered
from mlflow_resnet.training.augmentation import Augmentation


@dataclass(frozen=True)
class TrainingImages:
    """Training images, their targets, and how they are augmented.

    Attributes:
        targets: class indices, int of shape (N,).
    """

    directory: LabeledDirectory
    targets: np.ndarray
    augmentation: Augmentation
    random_seed: int

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, epoch: int, index: int) -> Tensor:
        """Image `index` as augmented in `epoch`: uint8 of shape (3, crop_size, crop_size)."""
        path = self.directory.paths[index]
        try:
            return self.augmentation.load(read_bytes(path), Random(f"{self.random_seed}/{epoch}/{index}"))
        except InvalidImageError as error:
            raise BadImagesError(self.directory.root, {printable(path): error.message}) from None

    def batches(self, epoch: int, batch_size: int, threads: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, targets) in an order of the epoch's own: uint8 of shape (batch_size, 3, H, W) and int64.

        The last batch is dropped if it is not full, as in the designer: batch norm needs more than one image.
        """
        order = list(range(len(self)))
        Random(f"{self.random_seed}/{epoch}").shuffle(order)
        order = order[: len(order) // batch_size * batch_size]
        images = map_ordered(lambda index: self.load(epoch, index), order, threads)
        indices = iter(order)
        while batch := list(islice(images, batch_size)):
            yield torch.stack(batch), torch.from_numpy(self.targets[list(islice(indices, batch_size))])
