"""From options and directories to what the loop takes; whatever cannot work is found here."""

from __future__ import annotations

from mlflow_resnet.console import say
from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError
from mlflow_resnet.evaluation.evaluate import targets_of
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.model.classifier import ImageClassifier, new_classifier
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.model.weights import load_starting_weights
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training.augmentation import Augmentation
from mlflow_resnet.training.data import TrainingImages


def check_training_data(options: TrainOptions, train_dir: LabeledDirectory, val_dir: LabeledDirectory) -> None:
    """Raises an error for data that cannot be trained on or validated with."""
    if len(train_dir.classes) < 2:
        raise InvalidDatasetError(train_dir.root, f"one class, {train_dir.classes[0]!r}; training needs two or more.")
    empty = [name for name, count in train_dir.counts().items() if count == 0]
    if empty:
        raise InvalidDatasetError(train_dir.root, f"no images of class {empty[0]!r}; add some or remove the folder.")
    targets_of(val_dir, train_dir.class_names, "the training images")
    if options.batch_size > len(train_dir):
        problem = f"batch_size is {options.batch_size}, more than the {len(train_dir)} training images; lower it"
        raise InvalidOptionsError([problem])


def starting_classifier(options: TrainOptions, classes: tuple[str, ...]) -> tuple[ImageClassifier, str]:
    """The classifier before training, and a sentence that says where its weights come from."""
    classifier = new_classifier(
        options.architecture,
        classes,
        Preprocessing(options.resize_size, options.crop_size),
        zero_init_residual=options.zero_init_residual,
        random_seed=options.random_seed,
    )
    weights = options.weights or ("DEFAULT" if options.pretrained else "")
    start = load_starting_weights(classifier, weights) if weights else "starting from random weights"
    say(start)
    return classifier, start


def augmented(options: TrainOptions, classifier: ImageClassifier, directory: LabeledDirectory) -> TrainingImages:
    """The training images with the augmentation that the options ask for."""
    augmentation = Augmentation(classifier.preprocessing, options.random_resized_crop, options.random_horizontal_flip)
    targets = targets_of(directory, classifier.classes, "the classifier")
    return TrainingImages(directory, targets, augmentation, options.random_seed)
