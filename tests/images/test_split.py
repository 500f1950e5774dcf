from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, NotLabeledDatasetError, OutputError
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.splitting.directory_split import split_directory, split_labeled
from mlflow_resnet.images.splitting.stratified import split_indices
from mlflow_resnet.options import SplitOptions

LABELS = ["a"] * 50 + ["b"] * 30 + ["c"] * 20

FIRST_OF_SEED_7 = [6, 8, 21, 33, 34, 56, 70, 78, 82, 88]


def split(image_dir, train_dir, val_dir, test_dir="", **given):
    places = {"image_dir": image_dir, "train_dir": train_dir, "val_dir": val_dir, "test_dir": test_dir}
    options = {"duplicates": "ignore"} | {name: str(place) for name, place in places.items()} | given
    return split_directory(SplitOptions(**options))


def by_class(indices: list[int], labels: list[str] = LABELS) -> dict[str, int]:
    return dict(Counter(labels[index] for index in indices))


@pytest.mark.parametrize(
    ("first", "second", "train", "val"),
    [
        (0.9, None, {"a": 45, "b": 27, "c": 18}, {"a": 5, "b": 3, "c": 2}),
        (0.29, None, {"a": 14, "b": 9, "c": 6}, {"a": 36, "b": 21, "c": 14}),
        (0.999, None, {"a": 49, "b": 29, "c": 19}, None),
        (70, 20, {"a": 35, "b": 21, "c": 14}, {"a": 10, "b": 6, "c": 4}),
        (3, 3, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
        (97, None, {"a": 49, "b": 29, "c": 19}, {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_splits_each_class_in_proportion(
    first: float, second: int | None, train: dict[str, int], val: dict[str, int] | None
) -> None:
    if val is None:  # 99 of 100 leave no image of two classes
        with pytest.raises(InvalidOptionsError, match="parts of 99 and 1 images cannot both hold all 3 classes"):
            split_indices(LABELS, first, second, seed=1)
        return
    firsts, seconds = split_indices(LABELS, first, second, seed=1)
    assert by_class(firsts) == train
    assert by_class(seconds) == val
    assert firsts == sorted(firsts)
    assert seconds == sorted(seconds)
    assert not set(firsts) & set(seconds)


def test_azures_fraction_is_rounded_down() -> None:
    labels = ["a"] * 7 + ["b"] * 8
    assert [len(part) for part in split_indices(labels, 0.9, None, seed=1)] == [13, 2]
    assert [len(part) for part in split_indices(labels, 0.75, None, seed=1)] == [11, 4]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_totals_are_exact_and_every_class_is_on_both_sides(sizes: list[int], seed: int, a: float, b: float) -> None:
    labels = [f"c{index}" for index, size in enumerate(sizes) for _ in range(size)]
    first = len(sizes) + int(a * (len(labels) - 2 * len(sizes)))
    second = len(sizes) + int(b * (len(labels) - first - len(sizes)))
    firsts, seconds = split_indices(labels, first, second, seed)
    assert (len(firsts), len(seconds)) == (first, second)
    assert set(by_class(firsts, labels)) == set(by_class(seconds, labels)) == set(labels)
    assert len(set(firsts) | set(seconds)) == first + second


@pytest.mark.process
def test_the_same_seed_draws_the_same_images_everywhere() -> None:
    expected = split_indices(LABELS, 10, 10, seed=7)
    assert expected[0] == FIRST_OF_SEED_7
    assert split_indices(LABELS, 10, 10, seed=8) != expected
    code = (
        "from mlflow_resnet.images.splitting.stratified import split_indices\n"
        "print(split_indices(['a'] * 50 + ['b'] * 30 + ['c'] * 20, 10, 10, seed=7))"
    )
    env = {"PYTHONHASHSEED": "99", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


def test_splits_a_listing_in_memory(pets: Path) -> None:
    (pets / "eel").mkdir()
    train, val = split_labeled(list_labeled(pets), 0.8, seed=3)
    assert train.counts() == {"cat": 8, "dog": 4, "eel": 0}
    assert val.counts() == {"cat": 2, "dog": 1, "eel": 0}
    assert sorted(train.names + val.names) == sorted(list_labeled(pets).names)


def test_copies_into_two_directories_with_all_class_folders(pets: Path, tmp_path: Path) -> None:
    (pets / "eel").mkdir()
    (pets / "cat" / "sub").mkdir()
    (pets / "cat" / "0.png").rename(pets / "cat" / "sub" / "0.png")
    train, val = split(pets, tmp_path / "out" / "train", tmp_path / "out" / "val", fraction=0.8, random_seed=3)
    for part in (train, val):
        listed = list_labeled(part.source)
        assert (listed.classes, listed.names, listed.labels) == (part.classes, part.names, part.labels)
        for name in part.names:
            assert Path(part.source, name).read_bytes() == (pets / name).read_bytes()
    assert train.source == str(tmp_path / "out" / "train")
    assert len(train) == 12
    assert len(val) == 3
    assert set(train.names) | set(val.names) == set(list_labeled(pets).names)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (13, 2)),
        ({"train_count": 9}, (9, 6)),
        ({"val_count": 3}, (12, 3)),
        ({"train_count": 5, "val_count": 4}, (5, 4)),
    ],
)
def test_counts_take_the_place_of_the_fraction(
    pets: Path, tmp_path: Path, options: dict[str, int], sizes: tuple[int, int]
) -> None:
    train, val = split(pets, tmp_path / "train", tmp_path / "val", **options)
    assert (len(train), len(val)) == sizes


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fraction": 1.0}, "fraction is 1.0; it must be below 1"),
        ({"fraction": 0.0}, "fraction is 0.0; it must be above 0"),
        ({"fraction": float("nan")}, "fraction is nan; it must be above 0"),
        ({"fraction": 0.99}, "parts of 14 and 1 images cannot both hold all 2 classes"),
        ({"train_count": 14, "val_count": 2}, "14 . 2 images were asked for, but there are 15"),
        ({"train_count": 16}, "parts of 16 and -1|asked for"),
        ({"val_count": 15}, "parts of 0 and 15"),
    ],
)
def test_impossible_sizes_are_refused(pets: Path, tmp_path: Path, options: dict[str, float], problem: str) -> None:
    with pytest.raises(InvalidOptionsError, match=problem):
        split(pets, tmp_path / "train", tmp_path / "val", **options)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]


def test_a_class_with_one_image_is_named(pets: Path, tmp_path: Path) -> None:
    for index in range(1, 5):
        (pets / "dog" / f"{index}.png").unlink()
    with pytest.raises(InvalidDatasetError, match="only one image in class 'dog'.*Add images, or remove the class"):
        split(pets, tmp_path / "train", tmp_path / "val")
    with pytest.raises(ValueError, match="fewer than two"):
        split_indices(["a", "a", "b"], 0.5, None, seed=1)


def test_flat_images_cannot_be_split(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(NotLabeledDatasetError):
        split(pets / "cat", tmp_path / "train", tmp_path / "val")


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("pets/train", "val"),
        ("train", "pets"),
        ("same", "same"),
        ("out", "out/val"),
        ("out/train", "out"),
        (".", "val"),
    ],
)
def test_outputs_lie_apart(pets: Path, tmp_path: Path, train: str, val: str) -> None:
    with pytest.raises(OutputError, match="apart"):
        split(pets, tmp_path / train, tmp_path / val)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]


def test_if_one_output_fails_there_is_no_other(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "mine").touch()
    with pytest.raises(OutputError, match="val: is not empty"):
        split(pets, tmp_path / "train", tmp_path / "val")
    with pytest.raises(OutputError, match="/proc/val: cannot be written"):
        split(pets, tmp_path / "train", "/proc/val")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "val"]


@pytest.mark.parametrize(
    ("classes", "each", "option"), [(30, 4, "--val-fraction 0.25"), (2, 2, "--val-fraction 0.5"), (7, 3, "0.34")]
)
def test_few_images_per_class_name_the_option_that_helps(
    tmp_path: Path, write_image: Callable[..., Path], classes: int, each: int, option: str
) -> None:
    for number in range(classes * each):
        write_image(f"few/{number % classes}/{number}.png")
    directory = list_labeled(tmp_path / "few")
    with pytest.raises(InvalidOptionsError, match=f"cannot both hold all {classes} classes.*{option}"):
        split_labeled(directory, 0.9, seed=1)
    parts = split_labeled(directory, 1 - float(option.split()[-1]), seed=1)
    assert [len(set(part.labels)) for part in parts] == [classes, classes]


def test_an_option_that_is_named_works_for_split_too(pets: Path, tmp_path: Path) -> None:
    for sizes, option in (
        ({"fraction": 0.95}, "with --fraction 0.86$"),
        ({"train_count": 14}, "with --train-count 13 --val-count 2$"),
    ):
        with pytest.raises(InvalidOptionsError, match=option):
            split(pets, tmp_path / "train", tmp_path / "val", **sizes)
    outputs = [tmp_path / name for name in ("train", "val", "test")]
    with pytest.raises(InvalidOptionsError, match=r"with --fraction 0.72 --test-fraction 0.14$"):
        split(pets, *outputs, fraction=0.6, test_fraction=0.05)
    assert [len(part) for part in split(pets, *outputs, fraction=0.72, test_fraction=0.14)] == [10, 3, 2]
