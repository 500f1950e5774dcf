"""Copies a labeled directory into new directories, one per part."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow_resnet.errors import (
    InvalidDatasetError,
    InvalidImageError,
    InvalidOptionsError,
    OutputError,
    join_names,
    printable,
)
from mlflow_resnet.images.decoding.decode import decode, read_bytes
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.pairs import equal_pairs, find_components
from mlflow_resnet.images.sources import fetch_labeled_directory
from mlflow_resnet.images.splitting.groups import assign_groups
from mlflow_resnet.images.splitting.stratified import check_counts, split_groups, split_indices
from mlflow_resnet.io.atomic import check_apart, new_directory, output_errors
from mlflow_resnet.io.destinations import destinations
from mlflow_resnet.io.file_names import path_below
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.options.split import SplitOptions

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)  # of validation, and of test, that are tried for groups


@dataclass(frozen=True)
class Sizes:
    """Number of images of each part. Counts that are not 0 take the place of fractions; validation gets the rest.

    `parts` are training, validation and, of 3, test. `in_training` says whether `train` holds images out, whose option
    is `--val-fraction`.
    """

    fraction: float = 0.9
    test_fraction: float = 0.0
    train_count: int = 0
    val_count: int = 0
    test_count: int = 0
    parts: int = 2
    in_training: bool = False

    def find_fitting_options(self, images: int, classes: int) -> str:
        """The options with which each part can hold every class; empty if there are none."""
        if self.train_count or self.val_count or self.test_count:
            test = f" --test-count {classes}" if self.parts == 3 else ""
            train = images - (self.parts - 1) * classes
            return f"--train-count {train} --val-count {classes}{test}" if train >= classes else ""
        for scale in (100, 1000, 10_000):
            share = math.ceil(classes * scale / images) / scale
            if int((1 - (self.parts - 1) * share) * images + 1e-9) >= classes:
                return self.options(share)
        return ""

    def find_working_options(self, works: Callable[[Sizes], bool]) -> str:
        """The options of the first of a few sizes that work; empty if none does."""
        for share in SHARES:
            first, test = 1 - (self.parts - 1) * share, share if self.parts == 3 else 0
            if first > 0 and works(Sizes(first, test, parts=self.parts, in_training=self.in_training)):
                return self.options(share)
        return ""

    def options(self, share: float) -> str:
        """Returns options that give `share` of the images to validation, and as many to test."""
        if self.in_training:
            return f"--val-fraction {share:g}"
        test = f" --test-fraction {share:g}" if self.parts == 3 else ""
        return f"--fraction {1 - (self.parts - 1) * share:g}{test}"

    def count_test(self, images: int) -> int:
        """Returns how many of the images are to test on, of which only three parts have one."""
        if self.parts < 3:
            return 0
        if not self.test_count and not 0 < self.test_fraction < 1:
            raise InvalidOptionsError([f"test_fraction {self.test_fraction:g} is not between 0 and 1"])
        if not self.test_count and not self.val_count and self.fraction + self.test_fraction >= 1:
            given = f"fraction {self.fraction:g} and test_fraction {self.test_fraction:g}"
            raise InvalidOptionsError([f"{given} leave nothing to validate on"])
        return self.test_count or int(self.test_fraction * images + 1e-9)


def split_directory(options: SplitOptions) -> list[LabeledDirectory]:
    """Copy a labeled directory, local or in S3, into two new ones, or three. Names stay, and all class folders.

    Raises InvalidDatasetError, InvalidOptionsError or OutputError; a copy that fails leaves no output behind.
    """
    outputs = [output for output in (options.train_dir, options.val_dir, options.test_dir) if output]
    check_apart(options.image_dir, outputs)
    counts = (options.train_count, options.val_count, options.test_count)
    sizes = Sizes(options.fraction, options.test_fraction, *counts, parts=len(outputs))
    with destinations(*outputs) as places, ExitStack() as stack:
        directory = fetch_labeled_directory(options.image_dir, follow_links=options.follow_links)
        groups = assign_groups(directory, options)
        parts = [directory.subset(each) for each in draw_parts(directory, groups, sizes, options.random_seed)]
        for part, place in zip(parts, places, strict=True):
            copy_images(part, stack.enter_context(new_directory(place)))
    for number, output in enumerate(outputs):
        paths = tuple(os.path.join(output, name) for name in parts[number].names)  # in S3, these are URIs
        parts[number] = replace(parts[number], source=output, paths=paths, objects=(), references=False)
    return parts


def split_labeled(
    directory: LabeledDirectory, fraction: float, seed: int, contents: Mapping[str, str] | None = None
) -> list[LabeledDirectory]:
    """The directory in two parts, the first with `fraction` of the images; both keep all classes. Copies nothing.

    `contents`: name -> what identifies the image's content; images with the same stay on one side.
    """
    marks = [(contents or {}).get(name, name) for name in directory.names]
    groups, sizes = find_components(len(directory), equal_pairs(marks)), Sizes(fraction, in_training=True)
    return [directory.subset(indices) for indices in draw_parts(directory, groups, sizes, seed)]


def draw_parts(directory: LabeledDirectory, groups: Sequence[int], sizes: Sizes, seed: int) -> list[list[int]]:
    """The indices of each part: training, validation and, of three, test."""
    if len(set(groups)) == len(directory):
        return draw_single_images(directory, sizes, seed)

    def draw_groups(wanted: Sizes) -> list[list[int]]:
        totals = count_group_totals(len(directory), wanted)
        return split_groups(directory.labels, groups, totals, seed)

    found = draw_groups(sizes)
    if problem := parts_problem(directory, found):
        given = sizes.find_working_options(lambda other: not parts_problem(directory, draw_groups(other)))
        advice = f"Give {given}" if given else "Add images" if sizes.in_training else "Add images, or group less"
        whole = f"its images are in {len(set(groups))} groups that stay whole"
        raise InvalidDatasetError(directory.source, f"{whole}, and {problem}. {advice}.")
    return found


def count_group_totals(images: int, sizes: Sizes) -> list[int]:
    """Images wanted in each part, of images in groups."""
    test = sizes.count_test(images)
    train = sizes.train_count or (
        images - test - sizes.val_count if sizes.val_count else int(sizes.fraction * images + 1e-9)
    )
    val = sizes.val_count or images - test - train
    if train + val + test != images or min(train, val) < 1:
        problem = f"groups stay whole, so the parts of {train}, {val} and {test} must be all {images} images"
        raise InvalidOptionsError([f"{problem}: leave --train-count or --val-count out, or change --fraction"])
    return [train, val, test][: sizes.parts]


def draw_single_images(directory: LabeledDirectory, sizes: Sizes, seed: int) -> list[list[int]]:
    """Draws the parts of images that are in no groups."""
    test = sizes.count_test(len(directory))
    check_counts(directory, sizes.parts, ", or give --val-dir" if sizes.in_training else "")
    advice = sizes.find_fitting_options(len(directory), len(set(directory.labels)))
    images, held_out = list(range(len(directory))), list[int]()
    if sizes.parts == 3:
        images, held_out = split_indices(directory.labels, len(directory) - test, test, seed, advice)
    of_train = int(sizes.fraction * len(directory) + 1e-9) if sizes.parts == 3 else sizes.fraction
    first = sizes.train_count or (len(images) - sizes.val_count if sizes.val_count else of_train)
    labels = [directory.labels[index] for index in images]
    train, val = split_indices(labels, first, sizes.val_count or None, seed, advice)
    found = [[images[index] for index in train], [images[index] for index in val]]
    return [*found, held_out][: sizes.parts]


def parts_problem(directory: LabeledDirectory, parts: Sequence[Sequence[int]]) -> str:
    """Returns why whole groups cannot fill the parts; empty if they can."""
    wanted = {label for label, count in directory.counts().items() if count}
    if missing := wanted - {directory.labels[index] for index in parts[0]}:
        return f"class {join_names(map(repr, sorted(missing)))} would not be trained on"
    return "" if all(parts) else "a part is empty"


def copy_images(directory: LabeledDirectory, output: Path) -> None:
    """Copies images to `output`, whose classes all get a folder.

    Raises:
        InvalidDatasetError: if references lead to something that is no image, which is not copied.
        OutputError: if one cannot be written.
    """
    for label in directory.classes:
        with output_errors(output / label):
            (output / label).mkdir()
    for name, path in zip(directory.names, directory.paths, strict=True):
        target = path_below(output, name)
        content = read_referenced_image(directory, name, path) if directory.references else None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                shutil.copyfile(path, target)
            else:
                target.write_bytes(content)
        except OSError as error:
            raise OutputError(target, f"cannot be copied from {printable(path)} ({os_reason(error)})") from error


def read_referenced_image(directory: LabeledDirectory, name: str, path: str) -> bytes:
    """Returns the file that an untrusted index names; raises an error unless it is an image."""
    try:
        content = read_bytes(path)
        decode(content)
    except InvalidImageError as error:
        problem = f"{printable(name)} is not copied, because {printable(path)} cannot be read: {error.message}"
        raise InvalidDatasetError(directory.source, problem) from None
    return content
