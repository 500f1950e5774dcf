"""The object of a training phase: the whole network on images, or the head on features.

Both offer the same to the trainer: a module to train, batches, what goes into the module, and an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.io.parallel import batch_items, map_ordered
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import fold_batch_norms, freeze_stages, train_mode
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import to_tensor
from mlflow_resnet.training import processes
from mlflow_resnet.training.input.labeled_images import LabeledImages, TrainingImages

FEATURE_BATCH_SIZE = 32

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass
class ImageWork:
    """The network on images; the stages until `frozen_until` stay as they are."""

    classifier: ImageClassifier
    train: TrainingImages
    val: LabeledImages
    device: torch.device
    threads: int
    frozen_until: str

    def __post_init__(self) -> None:
        self.module = self.classifier.network
        freeze_stages(self.module, self.frozen_until)

    def train_mode(self) -> None:
        train_mode(self.module, self.frozen_until)

    def batches(self, epoch: int, batch_size: int, done: int = 0) -> Batches:
        """Yields the batches of an epoch, without the first `done` ones."""
        return self.train.batches(epoch, batch_size, self.threads, done, pin=self.device.type == "cuda")

    def inputs(self, images: Tensor) -> Tensor:
        """Converts uint8 images to the network's input."""
        return self.classifier.preprocessing.normalize(images).contiguous(memory_format=torch.channels_last)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """The whole network's state_dict with the weights of `module`: the trained one or its average."""
        return module.state_dict()

    def evaluate(self, module: nn.Module, batch_size: int) -> Evaluation:
        """Predicts the validation images with `module` through the predict path that scoring and serving use."""
        predictor = Predictor(replace(self.classifier, network=module), str(self.device), self.threads, "fp32")
        own = processes.own_share(len(self.val))
        images = map_ordered(self.val.images.__getitem__, own, self.threads)
        probabilities = predictor.predict_arrays(images, batch_size)
        return gather_evaluation(self.classifier, self.val, list(probabilities))


@dataclass
class FeatureWork:
    """The head on features: the backbone sees each image once, or a few augmented views of it, and not every epoch.

    Attributes:
        views: of each training image; epoch e trains on view e modulo `views`.
        dtype: that the training images' features are computed in; those of validation images are as in scoring.
    """

    classifier: ImageClassifier
    train: TrainingImages
    val: LabeledImages
    device: torch.device
    threads: int
    views: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.module: nn.Linear = self.classifier.network.fc  # type: ignore[assignment]
        self.module.requires_grad_(True)
        self.backbone = fold_batch_norms(self.classifier.network).to(memory_format=torch.channels_last)
        self.backbone.fc = nn.Identity()
        self.features = {view: self.train_features(view) for view in range(self.views)}
        own = processes.own_share(len(self.val))
        images = map_ordered(lambda i: to_tensor(self.val.images[i].copy()), own, self.threads)
        self.val_features = self.compute_features(images, torch.float32)

    def train_features(self, view: int) -> Tensor:
        """Features of every training image as augmented in epoch `view`, float32 of shape (N, F).

        Each process computes a part of them and gets them all.
        """
        own = processes.own_share(len(self.train))
        images = map_ordered(lambda index: self.train.load(view, index), own, self.threads)
        parts = processes.gather_values(self.compute_features(images, self.dtype).cpu())
        return torch.stack(processes.interleave_parts([list(part) for part in parts])).to(self.device)

    @torch.no_grad()
    def compute_features(self, images: Iterator[Tensor], dtype: torch.dtype) -> Tensor:
        """Features of uint8 images, float32 of shape (N, F)."""
        found = [torch.empty(0, self.module.in_features, device=self.device)]  # a process may have no images
        for batch in batch_items(images, FEATURE_BATCH_SIZE):
            inputs = self.classifier.preprocessing.normalize(torch.stack(batch).to(self.device))
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                found.append(self.backbone(inputs.contiguous(memory_format=torch.channels_last)).float())
        return torch.cat(found)

    def train_mode(self) -> None:
        self.module.train()

    def batches(self, epoch: int, batch_size: int, done: int = 0) -> Batches:
        features = self.features[epoch % self.views]
        for batch in batch_items(self.train.own_order(epoch, batch_size, done), batch_size // processes.world_size()):
            yield features[batch], torch.from_numpy(self.train.data.targets[batch])

    def inputs(self, features: Tensor) -> Tensor:
        return features

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        head = {f"fc.{name}": tensor for name, tensor in module.state_dict().items()}
        return self.classifier.network.state_dict() | head

    @torch.inference_mode()
    def evaluate(self, module: nn.Module, batch_size: int) -> Evaluation:
        probabilities = module(self.val_features).softmax(dim=1).cpu().numpy()
        return gather_evaluation(self.classifier, self.val, list(probabilities))


def gather_evaluation(classifier: ImageClassifier, val: LabeledImages, own: list[Any]) -> Evaluation:
    """Gathers the probabilities of all processes and returns the evaluation of all validation images."""
    probabilities = np.stack(processes.interleave_parts(processes.gather_values(own)))
    return Evaluation(classifier.classes, val.targets, probabilities)
