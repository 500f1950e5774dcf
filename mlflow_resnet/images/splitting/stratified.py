"""Random splits with the same share of each class in every part: of single images, and of groups that stay whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, join_names
from mlflow_resnet.images.directories import LabeledDirectory


def split_indices(
    labels: Sequence[str], first: float | int, second: int | None, seed: int, advice: str = ""
) -> tuple[list[int], list[int]]:
    """Sorted indices of two disjoint parts with the classes in proportion, at least one image of each class in each.

    `first` is a fraction in (0, 1) of the images, rounded down, or a count; `second` a count, or None for the rest.
    `advice` are options that give every part room for all classes.
    The draw uses only `random.Random(seed).random()`, whose sequence Python promises to keep, so it is the same on
    every platform. Raises InvalidOptionsError if the totals cannot be met. Each class needs two images (ValueError).
    """
    sizes = dict(sorted(Counter(labels).items()))
    if min(sizes.values(), default=0) < 2:
        raise ValueError("a class has fewer than two images")
    images, classes = len(labels), len(sizes)
    if isinstance(first, float):
        if not 0 < first < 1:
            raise InvalidOptionsError([f"fraction {first:g} is not between 0 and 1"])
        first = int(first * images + 1e-9)  # 0.29 * 100 is 28.999999999999996
    second = images - first if second is None else second
    if first + second > images:
        raise InvalidOptionsError([f"{first} + {second} images were asked for, but there are {images}"])
    if min(first, second) < classes:
        problem = f"parts of {first} and {second} images cannot both hold all {classes} classes"
        raise InvalidOptionsError([f"{problem}; give each at least {classes}{f', with {advice}' if advice else ''}"])
    firsts = _shares(sizes, first, {label: size - 1 for label, size in sizes.items()})
    seconds = _shares(sizes, second, {label: size - firsts[label] for label, size in sizes.items()})
    parts: tuple[list[int], list[int]] = ([], [])
    for index in shuffle_indices(images, seed):
        for part, places in zip(parts, (firsts, seconds), strict=True):
            if places[labels[index]]:
                places[labels[index]] -= 1
                part.append(index)
                break
    return sorted(parts[0]), sorted(parts[1])


def split_groups(labels: Sequence[str], groups: Sequence[int], totals: Sequence[int], seed: int) -> list[list[int]]:
    """Sorted indices of disjoint parts of about `totals` images, with the classes about in proportion.

    The largest groups are dealt first, each to the part that lacks most of the group's classes; the seed decides among
    groups of one size. Sizes and proportions are met as well as whole groups allow.

    `labels` and `groups` are the class of each image and the number of its group; `totals` are together as many as
    there are images.
    """
    _, label_numbers = np.unique(np.asarray(labels), return_inverse=True)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), label_numbers.max() + 1))  # images of each class in each group
    np.add.at(counts, (members, label_numbers), 1)
    lacking = np.outer(np.asarray(totals) / len(labels), counts.sum(axis=0))  # images of each class in each part
    part_of = np.zeros(len(names), dtype=int)
    sizes = counts.sum(axis=1)
    for group in sorted(shuffle_indices(len(names), seed), key=lambda group: -sizes[group]):
        part_of[group] = np.argmax(lacking @ counts[group])
        lacking[part_of[group]] -= counts[group]
    return [np.flatnonzero(part_of[members] == part).tolist() for part in range(len(totals))]


def shuffle_indices(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def check_counts(directory: LabeledDirectory, parts: int, advice: str = "") -> None:
    """Raises InvalidDatasetError for a class with too few images to have one in each part.

    `advice` is what else helps.
    """
    few = [label for label, count in directory.counts().items() if 0 < count < parts]
    if few:
        counted = "only one image" if parts == 2 else f"fewer than {parts} images"
        needed = "two" if parts == 2 else str(parts)
        problem = f"{counted} in class {join_names(map(repr, few))}, but a split needs {needed} of each class"
        raise InvalidDatasetError(directory.source, f"{problem}. Add images, or remove the class{advice}.")


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
