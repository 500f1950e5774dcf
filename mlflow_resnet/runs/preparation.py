"""Prepares a training: options, data, the classifier to start from, the images. Whatever is wrong is found here."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError
from mlflow_resnet.evaluation.evaluation import find_targets
from mlflow_resnet.images.cache import prepare_images
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.console import is_first, progress_stream, say
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.model.classifier import ImageClassifier, new_classifier
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.model.weights import load_starting_weights
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.data import scan_dataset, scan_training_data
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.training import processes
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.input.augmentation import Augmentation
from mlflow_resnet.training.input.labeled_images import LabeledImages, TrainingImages, draw_weights
from mlflow_resnet.training.loop import fit
from mlflow_resnet.training.progress import TrainingProgress
from mlflow_resnet.training.recipe import Recipe, decide_recipe
from mlflow_resnet.training.saving import Saving
from mlflow_resnet.training.work import Plan

HALF = (0.5, 0.5, 0.5)


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

    @property
    def held_out(self) -> dict[str, ImageDirectoryDataset]:
        """The images that the finished model is measured on, by context: validation, and perhaps test."""
        return {"validation": self.val_set} | ({"test": self.test_set} if self.test_set else {})

    def epochs(self, options: TrainOptions, saving: Saving | None = None) -> Generator[EpochResult, None, None]:
        """Trains the classifier, epoch by epoch, and shows it on stderr. `saving`: see `fit`."""
        progress = TrainingProgress(self.recipe.epochs, options.print_frequency, progress_stream())
        return fit(self, options, progress, saving)


def check_options(options: TrainOptions, local_processes: int) -> None:
    """Raises an error for options that cannot work, before any work begins. `local_processes` share this machine."""
    check_directories(options.train_dir, options.val_dir, options.test_dir)
    processes.check_device(options.device, local_processes, options.sync_batch_norm and options.processes > 1)
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
    """A training on scanned data, its images cached as the options ask for."""
    train, val, classes = train_set.directory, val_set.directory, train_set.directory.class_names
    recipe = decide_recipe(options, classes, len(train))
    check_training_data(recipe, train, val)
    classifier, start = build_starting_classifier(options, recipe, classes)
    preprocessing = classifier.preprocessing
    augmentation = build_augmentation(options, recipe, preprocessing)
    prepare = partial(
        prepare_images,
        mode=options.cache,
        cache_dir=options.cache_dir,
        threads=options.num_workers or default_threads(),
        processes=processes.local_world_size(),
    )
    images = prepare(train, train_set.found.hashes, augmentation.prepare, augmentation.prepare_settings())
    say(f"training images: {images.description}")
    targets = find_targets(train, classes, "the classifier")
    weights = draw_weights(targets, options.class_balance)
    train_images = TrainingImages(LabeledImages(images, targets), augmentation, options.random_seed, weights)
    reserved, settings = images.memory_bytes, asdict(preprocessing)
    images = prepare(val, val_set.found.hashes, preprocessing.prepare, settings, reserved_bytes=reserved)
    val_images = LabeledImages(images, find_targets(val, classes, "the classifier"))
    return Training(recipe, classifier, train_images, val_images, start, train_set, val_set, test_set)


def check_training_data(recipe: Recipe, train_dir: LabeledDirectory, val_dir: LabeledDirectory) -> None:
    """Raises an error for data that cannot be trained on or validated with."""
    if len(train_dir.classes) < 2:
        problem = f"one class, {train_dir.classes[0]!r}; training needs two or more."
        raise InvalidDatasetError(train_dir.source, " ".join(filter(None, [problem, train_dir.advice])))
    empty = [name for name, count in train_dir.counts().items() if count == 0]
    if empty:
        raise InvalidDatasetError(train_dir.source, f"no images of class {empty[0]!r}; add some or remove the folder.")
    find_targets(val_dir, train_dir.class_names, "the training images")
    check_batch_size(recipe, len(train_dir))


def check_batch_size(recipe: Recipe, images: int) -> None:
    """Raises an error if not even one batch can be made of the `images`."""
    if recipe.batch_size > images:
        problem = f"batch_size is {recipe.batch_size}, more than the {images} training images; lower it"
        raise InvalidOptionsError([problem])


def build_starting_classifier(
    options: TrainOptions, recipe: Recipe, classes: tuple[str, ...]
) -> tuple[ImageClassifier, str]:
    """Returns the classifier before training, and a sentence about the origin of its weights."""
    preprocessing = Preprocessing(
        options.resize_size, options.crop_size, padding=options.padding, grayscale=options.grayscale
    )
    if recipe.normalize_half:
        preprocessing = replace(preprocessing, mean=HALF, std=HALF)
    classifier = new_classifier(
        options.architecture,
        classes,
        preprocessing,
        zero_init_residual=options.zero_init_residual,
        random_seed=options.random_seed,
    )
    weights = "" if recipe.strategy == "scratch" else options.weights or ("DEFAULT" if options.pretrained else "")
    load_model = flavor.load_model
    start = load_starting_weights(classifier, weights, load_model) if weights else "starting from random weights"
    say(start)
    transformations = build_augmentation(options, recipe, preprocessing).as_list()
    return replace(classifier, training={"recipe": asdict(recipe), "transformations": transformations}), start


def build_augmentation(options: TrainOptions, recipe: Recipe, preprocessing: Preprocessing) -> Augmentation:
    """The augmentation of training images: its fields have the names of options, and of what the recipe decides."""
    settings = vars(options) | vars(recipe) | {"preprocessing": preprocessing}
    settings["train_crop_size"] = options.train_crop_size or options.crop_size
    return Augmentation(**{field.name: settings[field.name] for field in fields(Augmentation)})
