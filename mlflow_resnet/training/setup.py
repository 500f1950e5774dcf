"""From options and directories to the loop's inputs; raises errors for what cannot work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError
from mlflow_resnet.evaluation.evaluation import find_targets
from mlflow_resnet.images.cache import PreparedImages, prepare_images
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.io.console import say
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.model.classifier import ImageClassifier, new_classifier
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.model.weights import load_starting_weights
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.training.distributed import processes
from mlflow_resnet.training.input.augmentation import Augmentation
from mlflow_resnet.training.input.labeled_images import LabeledImages, TrainingImages, draw_weights
from mlflow_resnet.training.recipe import Recipe

HALF = (0.5, 0.5, 0.5)


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
    options: TrainOptions, recipe: Recipe, classes: tuple[str, ...], load_model: Callable[[str], ImageClassifier]
) -> tuple[ImageClassifier, str]:
    """Returns the classifier before training, and a sentence about the origin of its weights.

    Args:
        load_model: what loads a saved model to start from.
    """
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
    start = load_starting_weights(classifier, weights, load_model) if weights else "starting from random weights"
    say(start)
    training = {"recipe": asdict(recipe), "transformations": build_augmentation(options, recipe, classifier).as_list()}
    return replace(classifier, training=training), start


def build_augmentation(options: TrainOptions, recipe: Recipe, classifier: ImageClassifier) -> Augmentation:
    """Returns the augmentation of training images."""
    return Augmentation(
        classifier.preprocessing,
        options.train_crop_size or options.crop_size,
        random_resized_crop=recipe.random_resized_crop,
        min_crop_area=recipe.min_crop_area,
        random_crop=options.random_crop,
        random_horizontal_flip=recipe.random_horizontal_flip,
        random_vertical_flip=options.random_vertical_flip,
        rotation_degrees=options.rotation_degrees,
        affine_degrees=options.affine_degrees,
        color_jitter=options.color_jitter,
        random_grayscale=options.random_grayscale,
        random_perspective=options.random_perspective,
        random_erasing=recipe.random_erasing,
        auto_augment=recipe.auto_augment,
    )


def training_images(
    options: TrainOptions,
    recipe: Recipe,
    classifier: ImageClassifier,
    directory: LabeledDirectory,
    hashes: Mapping[str, str],
) -> TrainingImages:
    """The training images, cached and augmented as the options ask for."""
    augmentation = build_augmentation(options, recipe, classifier)
    images = cache_images(options, directory, hashes, augmentation.prepare, augmentation.prepare_settings())
    say(f"training images: {images.description}")
    targets = find_targets(directory, classifier.classes, "the classifier")
    weights = draw_weights(targets, options.class_balance)
    return TrainingImages(LabeledImages(images, targets), augmentation, options.random_seed, weights)


def validation_images(
    options: TrainOptions,
    classifier: ImageClassifier,
    directory: LabeledDirectory,
    hashes: Mapping[str, str],
    reserved_bytes: int,
) -> LabeledImages:
    """The validation images as scoring would see them, cached as the options ask for.

    Args:
        reserved_bytes: of memory, for the training images.
    """
    preprocessing = classifier.preprocessing
    images = cache_images(options, directory, hashes, preprocessing.prepare, asdict(preprocessing), reserved_bytes)
    return LabeledImages(images, find_targets(directory, classifier.classes, "the classifier"))


def cache_images(
    options: TrainOptions,
    directory: LabeledDirectory,
    hashes: Mapping[str, str],
    prepare: Callable[[bytes], np.ndarray],
    settings: dict[str, Any],
    reserved_bytes: int = 0,
) -> PreparedImages:
    """Returns the prepared images, cached as the options say."""
    return prepare_images(
        directory,
        hashes,
        prepare,
        settings,
        mode=options.cache,
        cache_dir=options.cache_dir,
        threads=options.num_workers or default_threads(),
        processes=processes.local_world_size(),
        reserved_bytes=reserved_bytes,
    )
