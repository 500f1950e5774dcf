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
from mlflow_resnet.io.parallel import batch_items, default_threads, map_ordered
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import fold_batch_norms, freeze_stages, train_mode
from mlflow_resnet.model.precision import pick_precision
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import to_tensor
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.training import processes
from mlflow_resnet.training.input.labeled_images import LabeledImages, TrainingImages
from mlflow_resnet.training.recipe import Recipe

FEATURE_BATCH_SIZE = EVALUATION_BATCH_SIZE = 32
AUGMENTED_VIEWS = 4

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """What is trained, and how: the classifier to start from, its images, and a recipe of one phase or two."""

    recipe: Recipe
    classifier: ImageClassifier
    train_images: TrainingImages
    val_images: LabeledImages


class PhaseWork:
    """What both kinds know; `module` is trained."""

    def __init__(self, plan: Plan, options: TrainOptions, device: torch.device, module: nn.Module) -> None:
        self.classifier, self.train, self.val = plan.classifier, plan.train_images, plan.val_images
        self.device, self.module, self.threads = device, module, options.num_workers or default_threads()

    def gather_evaluation(self, own: list[Any]) -> Evaluation:
        """The evaluation of all validation images, of which this process has its `own` probabilities."""
        probabilities = np.stack(processes.interleave_parts(processes.gather_values(own)))
        return Evaluation(self.classifier.classes, self.val.targets, probabilities)


class ImageWork(PhaseWork):
    """The network on images; the stages until `freeze_until` stay as they are."""

    def __init__(self, plan: Plan, options: TrainOptions, device: torch.device) -> None:
        super().__init__(plan, options, device, plan.classifier.network)
        self.frozen_until = options.freeze_until
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

    def evaluate(self, module: nn.Module) -> Evaluation:
        """Predicts the validation images with `module` through the predict path that scoring and serving use."""
        predictor = Predictor(replace(self.classifier, network=module), str(self.device), self.threads, "fp32")
        own = processes.own_share(len(self.val))
        images = map_ordered(self.val.images.__getitem__, own, self.threads)
        probabilities = predictor.predict_arrays(images, EVALUATION_BATCH_SIZE)
        return self.gather_evaluation(list(probabilities))


class FeatureWork(PhaseWork):
    """The head on features: the backbone sees each image once, or a few augmented views of it, and not every epoch.

    Training images' features are computed in the precision of the training; those of validation images as in scoring.

    Attributes:
        features: of the training images, by view; epoch e trains on view e modulo their number.
    """

    module: nn.Linear

    def __init__(self, plan: Plan, options: TrainOptions, device: torch.device) -> None:
        super().__init__(plan, options, device, plan.classifier.network.fc)  # type: ignore[arg-type]
        self.module.requires_grad_(True)
        self.backbone = fold_batch_norms(self.classifier.network).to(memory_format=torch.channels_last)
        self.backbone.fc = nn.Identity()
        self.dtype = pick_precision(options.precision, device)
        views = options.feature_views or (AUGMENTED_VIEWS if self.train.augmentation.is_random else 1)
        self.features = [self.train_features(view) for view in range(views)]
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
        features = self.features[epoch % len(self.features)]
        for batch in batch_items(self.train.own_order(epoch, batch_size, done), batch_size // processes.world_size()):
            yield features[batch], torch.from_numpy(self.train.data.targets[batch])

    def inputs(self, features: Tensor) -> Tensor:
        return features

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        head = {f"fc.{name}": tensor for name, tensor in module.state_dict().items()}
        return self.classifier.network.state_dict() | head

    @torch.inference_mode()
    def evaluate(self, module: nn.Module) -> Evaluation:
        probabilities = module(self.val_features).softmax(dim=1).cpu().numpy()
        return self.gather_evaluation(list(probabilities))


AnyWork = ImageWork | FeatureWork


def build_work(phase: Recipe, plan: Plan, options: TrainOptions, device: torch.device) -> AnyWork:
    """Images for the whole network; features, computed once, for the head alone."""
    return (FeatureWork if phase.strategy == "linear_probe" else ImageWork)(plan, options, device)
