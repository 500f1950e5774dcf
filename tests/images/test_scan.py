from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mlflow_resnet.errors import BadImagesError, InvalidDatasetError
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.scan import apply_policy, digest_directory, scan


def digest(directory, threads):
    found = scan(directory, threads)
    return digest_directory(directory.without(found.bad), found.hashes)


def test_finds_every_bad_image_and_why(pets: Path) -> None:
    good = (pets / "cat" / "0.png").read_bytes()
    (pets / "cat" / "cut.png").write_bytes(good[: len(good) // 2])
    (pets / "dog" / "empty.png").touch()
    (pets / "dog" / os.fsdecode(b"text\xff.jpg")).write_text("not an image")
    calls: list[int] = []
    directory = list_labeled(pets)
    found = scan(directory, threads=2, on_image=lambda: calls.append(1))
    assert {name: reason.split(" (")[0] for name, reason in found.bad.items()} == {
        "cat/cut.png": "truncated or damaged",
        "dog/empty.png": "empty file",
        os.fsdecode(b"dog/text\xff.jpg"): "not an image of a supported format",
    }
    assert len(calls) == len(directory) == 18
    with pytest.raises(BadImagesError) as caught:
        apply_policy(directory, found, "error")
    assert "3 unreadable images: cat/cut.png (truncated" in caught.value.message
    assert caught.value.reasons == found.bad
    assert apply_policy(directory, found, "skip").counts() == {"cat": 10, "dog": 5}


def test_a_directory_without_bad_images_stays_as_it_is(pets: Path) -> None:
    directory = list_labeled(pets)
    found = scan(directory, threads=1)
    assert found.bad == {}
    assert apply_policy(directory, found, "error") is directory


def test_nothing_left_is_an_error_also_when_skipping(pets: Path) -> None:
    for path in pets.rglob("*.png"):
        path.write_bytes(b"")
    directory = list_labeled(pets)
    with pytest.raises(InvalidDatasetError, match="none of its 15 images can be read: cat/0.png .empty file"):
        apply_policy(directory, scan(directory, threads=2), "skip")


def test_the_digest_identifies_the_data_and_not_the_place(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "elsewhere")
    before = digest(list_labeled(pets), threads=1)
    assert len(before) == 16
    assert int(before, 16) >= 0
    assert digest(list_labeled(tmp_path / "elsewhere"), threads=4) == before
    (pets / "cat" / "bad.png").touch()
    assert digest(list_labeled(pets), threads=2) == before


@pytest.mark.parametrize("change", ["content", "name", "class", "removed", "empty class"])
def test_the_digest_changes_with_the_data(pets: Path, change: str) -> None:
    before = digest(list_labeled(pets), threads=1)
    first = pets / "cat" / "0.png"
    if change == "content":
        first.write_bytes((pets / "cat" / "1.png").read_bytes())
    elif change == "name":
        first.rename(pets / "cat" / "00.png")
    elif change == "class":
        first.rename(pets / "dog" / "00.png")
    elif change == "removed":
        first.unlink()
    else:
        (pets / "eel").mkdir()
    assert digest(list_labeled(pets), threads=1) != before
