"""Folders as people download them: parts such as train and valid, wrappers, data sets in data sets, stray files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from helpers import convert_source, run_main

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.layout import Layout, find_part, name_data_set

Write = Callable[..., Path]
ROBOFLOW = "train/cat train/dog valid/cat valid/dog test/cat test/dog"
INTEL = "seg_train/seg_train/a seg_train/seg_train/b seg_test/seg_test/a seg_pred/seg_pred"


def names(folders: Iterable[str], each: int = 3) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(each)]


def problem(folders: str) -> str:
    return Layout(names(folders.split())).problem("my data")


@pytest.mark.parametrize(
    ("folders", "given"),
    [
        (ROBOFLOW, "train valid test"),
        ("pets/train/cat pets/train/dog pets/val/cat pets/val/dog", "pets/train pets/val"),
        ("Training/a Training/b Testing/a Testing/b", "Training - Testing"),
        (INTEL, "seg_train/seg_train - seg_test/seg_test"),
        ("train/a train/b test1", "train"),
        ("train/images valid/images test/images", "train valid test"),
        ("train2017/a train2017/b val2017/b samples", "train2017 val2017"),
    ],
)
def test_train_and_valid_are_no_classes_and_are_offered_as_what_they_are(folders: str, given: str) -> None:
    places = [shlex.quote(f"my data/{place}") if place != "-" else "" for place in given.split()]
    options = zip(("--train-dir", "--val-dir", "--test-dir"), places, strict=False)
    assert " ".join(["Train with", *(f"{option} {place}" for option, place in options if place)]) in problem(folders)


def test_parts_without_class_folders_are_no_classes_either() -> None:
    assert "'test', 'train' are parts of a data set" in problem("train test")
    assert "hold no class folders" in problem("train test")
    assert "'test1' has no class folders: it can be scored" in problem("train/a train/b test1")


@pytest.mark.parametrize(
    "folders",
    [
        "cat dog",
        "train bus car",  # vehicles
        "train/steam train/diesel bus/red car",
        "freight_train test_tube",
        "cat/train cat/test dog/train dog/test",
        "cat/2019 cat/2020 dog/2019 dog/2020",
        "cat/cat dog/dog",
        "both/cat cat dog",
        "train/cat train/dog",
    ],
)
def test_honest_classes_stay_classes(folders: str) -> None:
    assert problem(folders) == ""


@pytest.mark.parametrize("inner", ["small/cat small/dog", "test/cat test/dog", "demo/train/1 demo/val/1 demo/images/1"])
def test_a_data_set_inside_a_data_set_is_no_class(inner: str) -> None:
    name = inner.partition("/")[0]
    assert f"its folder '{name}' holds a data set of its own" in problem(f"cat dog bird {inner}")


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ("cat dog", ""),
        ("cat/2019 cat/2020 dog", ""),
        ("pets/cat pets/dog", "if 'cat', 'dog' in it are the classes, give my data/pets"),
        ("a/b/cat a/b/dog", "give my data/a/b"),
        ("batch1/cat batch1/dog batch2/cat batch2/dog", "'batch1', 'batch2' all hold the folders 'cat', 'dog'"),
        (
            "cat/train cat/test dog/train dog/test",
            "every class holds folders 'test', 'train', which are taken together",
        ),
    ],
)
def test_what_looks_unusual_is_said(folders: str, told: str) -> None:
    advice = Layout(names(folders.split())).advice("my data")
    assert told in advice
    assert bool(told) == bool(advice)


def test_words_that_name_a_part() -> None:
    assert [find_part(name) for name in ("x/Train", "seg_test", "valid", "val2017", "train_val", "Tea", "")] == [
        *("train", "test", "val", "val", "", "", "")
    ]


def test_a_stray_image_beside_the_wrapper_of_the_classes(tmp_path: Path, write_image: Write) -> None:
    for name in ("cover.png", *(f"pets/{label}/{number}.png" for label in ("cat", "dog") for number in range(4))):
        write_image(f"x/{name}")
    told = run_main("convert", "--source", tmp_path / "x", "--output-dir", tmp_path / "out")
    assert told.stdout.splitlines() == [
        f"9 images of 2 classes in {tmp_path / 'out'}",
        "1 of them beside the class folders",
    ]
    assert list_labeled(tmp_path / "out").classes == ("cat", "dog")


def test_many_loose_images_beside_a_folder_are_no_strays(tmp_path: Path, write_image: Write) -> None:
    for name in ("1.png", "2.png", "3.png", "extra/a/1.png", "extra/b/1.png"):
        write_image(f"x/{name}")
    assert convert_source(tmp_path / "x", tmp_path / "out").classes == ("extra",)


def test_a_class_with_a_folder_in_it_is_not_taken_for_a_wrapper(tmp_path: Path, write_image: Write) -> None:
    for name in ("cat/1.png", "cat/2.png", "cat/more/1.png"):
        write_image(f"x/{name}")
    assert convert_source(tmp_path / "x", tmp_path / "out").classes == ("cat",)


def test_an_archive_of_roboflows_keeps_its_parts_and_says_how_to_train_on_them(
    tmp_path: Path, write_image: Write
) -> None:
    for name in names(ROBOFLOW.split()):
        write_image(f"roboflow/{name}")
    found = convert_source(tmp_path / "roboflow", tmp_path / "out")
    assert (found.images, found.classes, found.parts) == (18, ("cat", "dog"), ("test", "train", "valid"))
    assert f"Train with --train-dir {tmp_path}/out/train --val-dir {tmp_path}/out/valid" in found.advice
    assert list_labeled(tmp_path / "out" / "valid").classes == ("cat", "dog")
    with pytest.raises(InvalidDatasetError, match="Convert each of them alone, or give --transfer copy"):
        convert_source(tmp_path / "roboflow", tmp_path / "index", transfer="reference")


def test_parts_are_refused_as_classes(tmp_path: Path, write_image: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names(ROBOFLOW.split(), 1):
        write_image(f"x/{name}")
    monkeypatch.chdir(tmp_path)
    told = run_main("split", "--image-dir", "x", "--train-dir", "a", "--val-dir", "b")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "x: its folders 'test', 'train', 'valid' are parts of a data set" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"x"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("flowers", "flowers"),
        ("data/flowers/train", "flowers"),
        ("data/flowers/Training/", "flowers"),
        ("s3://bucket/flowers/train2017", "flowers"),
        ("s3://bucket/train", "bucket"),
        ("flowers/validation/train", "flowers"),
        ("flowers-train", "flowers-train"),
        ("seg_train/seg_train", "seg_train"),
        ("/train", "train"),
    ],
)
def test_a_part_of_a_data_set_is_named_after_its_data_set(source, name):
    assert name_data_set(source) == name
