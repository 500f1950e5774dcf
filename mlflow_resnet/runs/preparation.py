"""Prepares a training: checks options, scans data, loads starting weights, and reports every problem. Whatever is
wrong is found here."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.evaluation import find_targets
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.console import is_first, progress_stream
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.data import scan_dataset, scan_training_data
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.distributed import processes
from mlflow_resnet.training.loop import Plan, fit
from mlflow_resnet.training.progress import TrainingProgress
from mlflow_resnet.training.recipe import decide_recipe
from mlflow_resnet.training.saving import Saving
from mlflow_resnet.training.setup import (
    build_starting_classifier,
    check_training_data,
    training_images,
    validation_images,
)


def check_options(options: TrainOptions, local_processes: int) -> None:
    """Raises an error for options that cannot work, before any work begins. `local_processes` share this machine."""
    check_directories(options.train_dir, options.val_dir, options.test_dir)
    processes.check_device(options.device, local_processes)
    if options.sync_batch_norm and options.processes > 1:
        processes.check_sync_batch_norm(options.device)
    if is_first() and not options.offline:
        check_servers(registry=bool(options.registered_model_name))


def agree_on_options(options: TrainOptions) -> TrainOptions:
    """Returns the checked options that all joined processes share; `processes` is their number."""
    with processes.agree_on_errors():
        count = processes.world_size()
        if options.processes not in (1, count):
            raise InvalidOptionsError([f"processes is {options.processes}, but {count} were started; leave it out"])
        options = replace(options, processes=count)
        check_options(options, processes.local_world_size())
        pick_device(processes.local_device(options.device))
    return options


@dataclass(frozen=True)
class Training(Plan):
    """A prepared training.

    Attributes:
        start: where the classifier's weights come from.
        test_set: is only looked at when the training is over.
    """

    start: str
    train_set: ImageDirectoryDataset
    val_set: ImageDirectoryDataset
    test_set: ImageDirectoryDataset | None = None

    def epochs(self, options: TrainOptions, saving: Saving | None = None) -> Generator[EpochResult, None, None]:
        """Trains the classifier, epoch by epoch, and shows it on stderr. `saving`: see `fit`."""
        progress = TrainingProgress(self.recipe.epochs, options.print_frequency, progress_stream())
        return fit(self, options, progress, saving)


def prepare_training(options: TrainOptions) -> Training:
    """Scans the data and loads the starting weights."""
    with processes.agree_on_errors():
        train_set, val_set = scan_training_data(options)
        return build_training(train_set, val_set, scan_test_data(options, train_set), options)


def scan_test_data(options: TrainOptions, train_set: ImageDirectoryDataset) -> ImageDirectoryDataset | None:
    """The images to measure the finished model on, if there are any."""
    if not options.test_dir:
        return None
    test_set = scan_dataset(options.test_dir, options, "test")
    find_targets(test_set.directory, train_set.directory.class_names, "the training images")
    return test_set


def build_training(
    train_set: ImageDirectoryDataset,
    val_set: ImageDirectoryDataset,
    test_set: ImageDirectoryDataset | None,
    options: TrainOptions,
) -> Training:
    """A training on scanned data."""
    train, val = train_set.directory, val_set.directory
    recipe = decide_recipe(options, train.class_names, len(train))
    check_training_data(recipe, train, val)
    classifier, start = build_starting_classifier(options, recipe, train.class_names, flavor.load_model)
    train_images = training_images(options, recipe, classifier, train, train_set.found.hashes)
    reserved = train_images.data.images.memory_bytes
    val_images = validation_images(options, classifier, val, val_set.found.hashes, reserved)
    return Training(recipe, classifier, train_images, val_images, start, train_set, val_set, test_set)
