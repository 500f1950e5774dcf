"""What a training begins with: checked options, scanned data, starting weights. Whatever is wrong is found here."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.evaluate import targets_of
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.console import is_first, progress_stream
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.data import scanned_dataset, scanned_training_data
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.distributed import processes
from mlflow_resnet.training.loop import Plan, fit
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.recipe import decide
from mlflow_resnet.training.saving import Saving
from mlflow_resnet.training.setup import check_training_data, starting_classifier, training_images, validation_images


def check(options: TrainOptions, local_processes: int) -> None:
    """Finds what is wrong before any work begins. `local_processes` share this machine."""
    check_directories(options.train_dir, options.val_dir, options.test_dir)
    processes.check_device(options.device, local_processes)
    if options.sync_batch_norm and options.processes > 1:
        processes.check_sync_batch_norm(options.device)
    if is_first() and not options.offline:
        check_servers(registry=bool(options.registered_model_name))


def agreed(options: TrainOptions) -> TrainOptions:
    """The options of this process and those that it has joined, checked; `processes` is how many there are."""
    with processes.agreeing():
        count = processes.world_size()
        if options.processes not in (1, count):
            raise InvalidOptionsError([f"processes is {options.processes}, but {count} were started; leave it out"])
        options = replace(options, processes=count)
        check(options, processes.local_world_size())
        pick_device(processes.local_device(options.device))
    return options


@dataclass(frozen=True)
class Training(Plan):
    """All that a training begins with.

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
        progress = Progress(self.recipe.epochs, options.print_frequency, progress_stream())
        return fit(self, options, progress, saving)


def prepared(options: TrainOptions) -> Training:
    """Scans the data and loads the starting weights."""
    with processes.agreeing():
        train_set, val_set = scanned_training_data(options)
        return training_on(train_set, val_set, scanned_test_data(options, train_set), options)


def scanned_test_data(options: TrainOptions, train_set: ImageDirectoryDataset) -> ImageDirectoryDataset | None:
    """The images to measure the finished model on, if there are any."""
    if not options.test_dir:
        return None
    test_set = scanned_dataset(options.test_dir, options, "test")
    targets_of(test_set.directory, train_set.directory.class_names, "the training images")
    return test_set


def training_on(
    train_set: ImageDirectoryDataset,
    val_set: ImageDirectoryDataset,
    test_set: ImageDirectoryDataset | None,
    options: TrainOptions,
) -> Training:
    """A training on scanned data."""
    train, val = train_set.directory, val_set.directory
    recipe = decide(options, train.class_names, len(train))
    check_training_data(recipe, train, val)
    classifier, start = starting_classifier(options, recipe, train.class_names, flavor.load_model)
    train_images = training_images(options, recipe, classifier, train, train_set.found.hashes)
    reserved = train_images.data.images.memory_bytes
    val_images = validation_images(options, classifier, val, val_set.found.hashes, reserved)
    return Training(recipe, classifier, train_images, val_images, start, train_set, val_set, test_set)
