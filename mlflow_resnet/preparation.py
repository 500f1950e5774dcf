"""All that a training begins with: the surroundings checked, the data scanned, the weights loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.tracking.data import scanned_training_data
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.training.data import LabeledImages, TrainingImages
from mlflow_resnet.training.loop import EpochResult, fit
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.recipe import Recipe, decide
from mlflow_resnet.training.setup import check_training_data, starting_classifier, training_images, validation_images


def check_surroundings(options: TrainOptions) -> None:
    """Raises an error if a directory, the device or a server is not there, before any work is done."""
    check_directories(options.train_dir, options.val_dir)
    pick_device(options.device)
    check_servers(registry=bool(options.registered_model_name))


@dataclass(frozen=True)
class Training:
    """All that a training begins with. `start` says where the classifier's weights come from."""

    recipe: Recipe
    classifier: ImageClassifier
    start: str
    train_set: ImageDirectoryDataset
    val_set: ImageDirectoryDataset
    train_images: TrainingImages
    val_images: LabeledImages

    def epochs(self, options: TrainOptions, progress: Progress | None = None) -> Iterator[EpochResult]:
        """Trains the classifier, epoch by epoch; shows it on stderr if `progress` says nothing else."""
        progress = progress or Progress(self.recipe.epochs, options.print_frequency)
        return fit(self.classifier, self.train_images, self.val_images, self.recipe, options, progress)


@contextlib.contextmanager
def prepared(options: TrainOptions) -> Iterator[Training]:
    """Scans the data and loads the starting weights; whatever is wrong with them is found here."""
    with scanned_training_data(options) as (train_set, val_set):
        yield training_on(train_set, val_set, options)


def training_on(train_set: ImageDirectoryDataset, val_set: ImageDirectoryDataset, options: TrainOptions) -> Training:
    """A training on scanned data."""
    train, val = train_set.directory, val_set.directory
    recipe = decide(options, train.class_names, len(train))
    check_training_data(recipe, train, val)
    classifier, start = starting_classifier(options, recipe, train.class_names)
    train_images = training_images(options, recipe, classifier, train, train_set.hashes)
    reserved = train_images.data.images.memory_bytes
    val_images = validation_images(options, classifier, val, val_set.hashes, reserved)
    return Training(recipe, classifier, start, train_set, val_set, train_images, val_images)
