"""Splits labeled images in two, class by class (Azure: *Split Image Directory*)."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, OutputError, listed
from mlflow_resnet.images.directories import LabeledDirectory, list_labeled
from mlflow_resnet.images.output import new_directory
from mlflow_resnet.images.reasons import os_reason


def split_indices(
    labels: Sequence[str], first: float | int, second: int | None, seed: int
) -> tuple[list[int], list[int]]:
    """Sorted indices of two disjoint parts with the classes in proportion, at least one image of each class in each.

    `first` is a fraction in (0, 1) of the images, rounded down, or a count; `second` a count, or None for the rest.
    The draw uses only `random.Random(seed).random()`, whose sequence Python promises to keep, so it is the same on
    every platform. Raises InvalidOptionsError if the totals cannot be met. Each class needs two images (ValueError).
    """
    sizes = dict(sorted(Counter(labels).items()))
    if min(sizes.values(), default=0) < 2:
        raise ValueError("a class has fewer than two images")
    first_total, second_total = _totals(len(labels), len(sizes), first, second)
    firsts = _shares(sizes, first_total, {label: size - 1 for label, size in sizes.items()})
    seconds = _shares(sizes, second_total, {label: size - firsts[label] for label, size in sizes.items()})
    parts: tuple[list[int], list[int]] = ([], [])
    for index in _shuffled(len(labels), seed):
        for part, places in zip(parts, (firsts, seconds), strict=True):
            if places[labels[index]]:
                places[labels[index]] -= 1
                part.append(index)
                break
    return sorted(parts[0]), sorted(parts[1])


def _shuffled(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def split_labeled(directory: LabeledDirectory, fraction: float, seed: int) -> tuple[LabeledDirectory, LabeledDirectory]:
    """The directory in two parts, the first with `fraction` of the images; both keep all classes. Copies nothing."""
    return _split(directory, fraction, None, seed)


def split(
    image_dir: str | os.PathLike[str],
    train_dir: str | os.PathLike[str],
    val_dir: str | os.PathLike[str],
    *,
    fraction: float = 0.9,
    train_count: int = 0,
    val_count: int = 0,
    seed: int = 1,
) -> tuple[LabeledDirectory, LabeledDirectory]:
    """Copies a labeled directory into two new ones, both with all class folders. Names stay.

    Counts of images, where not 0, take the place of `fraction`. Raises InvalidDatasetError, InvalidOptionsError or
    OutputError; a copy that fails leaves neither output behind.
    """
    _check_apart([image_dir, train_dir, val_dir])
    directory = list_labeled(image_dir)
    first = train_count or (len(directory) - val_count if val_count else fraction)
    train, val = _split(directory, first, val_count or None, seed)
    with new_directory(train_dir) as new_train, new_directory(val_dir) as new_val:
        _copy(train, new_train)
        _copy(val, new_val)
    return replace(train, root=Path(train_dir)), replace(val, root=Path(val_dir))


def _split(
    directory: LabeledDirectory, first: float | int, second: int | None, seed: int
) -> tuple[LabeledDirectory, LabeledDirectory]:
    single = [label for label, count in directory.counts().items() if count == 1]
    if single:
        problem = f"only one image in class {listed(map(repr, single))}, but a split needs two of each class"
        raise InvalidDatasetError(directory.root, f"{problem}. Add images, or remove the class.")
    train, val = split_indices(directory.labels, first, second, seed)
    return directory.subset(train), directory.subset(val)


def _totals(images: int, classes: int, first: float | int, second: int | None) -> tuple[int, int]:
    """How many images each part gets."""
    if isinstance(first, float):
        if not 0 < first < 1:
            raise InvalidOptionsError([f"fraction {first:g} is not between 0 and 1"])
        first = int(first * images + 1e-9)  # 0.29 * 100 is 28.999999999999996
    second = images - first if second is None else second
    if first + second > images:
        raise InvalidOptionsError([f"{first} + {second} images were asked for, but there are {images}"])
    if min(first, second) < classes:
        problem = f"parts of {first} and {second} images cannot both hold all {classes} classes"
        raise InvalidOptionsError([f"{problem}; give each at least {classes}"])
    return first, second


def _shares(sizes: dict[str, int], total: int, most: dict[str, int]) -> dict[str, int]:
    """`total` divided in proportion to `sizes`, at least 1 and at most `most` each, by largest remainders.

    In whole numbers, so that ties go to the first class on every machine.
    """
    images = sum(sizes.values())
    shares = {label: min(max(total * size // images, 1), most[label]) for label, size in sizes.items()}

    def lacking(label: str) -> int:
        return total * sizes[label] - shares[label] * images

    while (missing := total - sum(shares.values())) > 0:
        shares[max((label for label in shares if shares[label] < most[label]), key=lacking)] += 1
    while missing < 0:
        shares[min((label for label in shares if shares[label] > 1), key=lacking)] -= 1
        missing += 1
    return shares


def _check_apart(paths: Sequence[str | os.PathLike[str]]) -> None:
    source, *outputs = [os.path.realpath(path) for path in paths]
    for output, others in ((outputs[0], [source, outputs[1]]), (outputs[1], [source, outputs[0]])):
        for other in others:
            if os.path.commonpath([output, other]) in (output, other):
                raise OutputError(output, f"is {other}, in it or around it; give a directory apart from it")


def _copy(directory: LabeledDirectory, output: Path) -> None:
    for label in directory.classes:
        (output / label).mkdir()
    for name, path in zip(directory.names, directory.paths, strict=True):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, output / name)
        except OSError as error:
            raise OutputError(output / name, f"cannot be copied from {path} ({os_reason(error)})") from error
