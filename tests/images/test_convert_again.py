"""A second call of `convert_source`: each picture is in one class, and none is lost."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import convert_source, run_main, upload
from made_images import encoded, photo

from mlflow_resnet.images.conversion import update as converting
from mlflow_resnet.images.conversion.update import Converted
from mlflow_resnet.images.decoding.decode import decode
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.index import read_index

PICTURES = {f"{number}.png": encoded(photo(4 + number, 3), "PNG") for number in range(4)}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four photos; the test runs in the one that it is in."""
    (tmp_path / "photos").mkdir()
    for name, content in PICTURES.items():
        (tmp_path / "photos" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def convert_table(*labels: str, header: str = "filename,label", **options: str) -> Converted:
    """Converts a table with a row for each label; those that are "-" have none."""
    rows = [f"photos/{number}.png,{label}\n" for number, label in enumerate(labels) if label != "-"]
    Path("t.csv").write_text(f"{header}\n{''.join(rows)}")
    return convert_source("t.csv", "out", **options)


def found() -> dict[str, int]:
    """The width of each picture in the directory, which says which it is, after a look at the index."""
    names = {path.relative_to("out").as_posix(): path for path in Path("out").rglob("*.png")}
    widths = {name: decode(path.read_bytes()).width for name, path in names.items()}
    assert {row.name: row.width for row in read_index("out")[0]} == widths
    assert not list(Path("out").glob(".*"))
    return widths


def test_a_corrected_label_and_a_removed_row(photos: Path) -> None:
    convert_table("cat", "cat", "dog", "dog")
    result = convert_table("cat", "dog", "dog", "-")
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6}
    assert (result.images, result.added) == (3, 0)
    assert result.notes == (
        "moved 1 image of an earlier call: cat/1.png is dog/1.png now",
        "removed 1 image of an earlier call, which the source has no more: dog/3.png",
    )
    assert convert_table("cat", "dog", "dog", "-").notes == ()


def test_the_command_says_what_moved_and_left(photos: Path) -> None:
    convert_table("cat", "cat", "dog")
    Path("t.csv").write_text("filename,label\nphotos/0.png,cat\nphotos/1.png,dog\nphotos/3.png,dog\n")
    done = run_main("convert", "--source", "t.csv", "--output-dir", "out")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "3 images of 2 classes in out, 2 by an earlier call",
        "moved 1 image of an earlier call: cat/1.png is dog/1.png now",
        "removed 1 image of an earlier call, which the source has no more: dog/2.png",
    ]


def test_the_last_image_of_a_class_that_was_a_mistake(photos: Path) -> None:
    convert_table("cat", "catt", "dog", "dog")
    assert convert_table("cat", "cat", "dog", "dog").classes == ("cat", "dog")
    assert sorted(list_labeled("out").classes) == ["cat", "dog"]


def test_a_class_that_was_a_mistake_and_had_no_image(photos: Path) -> None:
    Path("t.csv").write_text("filename,label\nphotos/0.png,cat\nphotos/missing.png,catt\n")
    assert convert_source("t.csv", "out").classes == ("cat", "catt")
    Path("t.csv").write_text("filename,label\nphotos/0.png,cat\nphotos/missing.png,dog\n")
    assert convert_source("t.csv", "out").classes == ("cat", "dog")


def test_a_forgotten_label_column(photos: Path) -> None:
    convert_table("cat", "cat", "dog", header="filename,breed")
    assert found() == {"0.png": 4, "1.png": 5, "2.png": 6}
    result = convert_table("cat", "cat", "dog", header="filename,breed", label_column="breed")
    assert found() == {"cat/0.png": 4, "cat/1.png": 5, "dog/2.png": 6}
    assert (result.images, result.added) == (3, 0)


def test_labels_that_were_exchanged(photos: Path) -> None:
    convert_table("cat", "dog")
    convert_table("dog", "cat")
    assert {name.partition("/")[0]: width for name, width in found().items()} == {"dog": 4, "cat": 5}


def test_a_corrected_label_of_an_image_that_is_gone(photos: Path) -> None:
    convert_table("cat", "dog", "dog")
    (photos / "0.png").unlink()
    assert convert_table("dog", "dog", "dog").unreadable == {}
    assert found() == {"dog/0.png": 4, "dog/1.png": 5, "dog/2.png": 6}


def test_a_corrected_label_of_an_image_that_was_changed_too(photos: Path) -> None:
    convert_table("cat", "dog")
    (photos / "0.png").write_bytes(encoded(photo(30, 30), "PNG"))
    convert_table("dog", "dog")
    assert found() == {"dog/0.png": 30, "dog/1.png": 5}


@pytest.mark.parametrize("label", ["", "a/b"])
def test_a_label_that_was_taken_back(photos: Path, label: str) -> None:
    convert_table("cat", "dog")
    result = convert_table("cat", label)
    assert found() == {"cat/0.png": 4}
    assert list(result.unreadable) == ["photos/1.png"]
    assert "removed 1 image" in result.notes[0]


def test_a_second_row_with_another_label(photos: Path) -> None:
    convert_table("cat", "dog")
    Path("t.csv").write_text("filename,label\nphotos/0.png,cat\nphotos/1.png,dog\nphotos/1.png,cat\n")
    assert list(convert_source("t.csv", "out").unreadable.values()) == ["2 labels (cat, dog)"]
    assert found() == {"cat/0.png": 4}


def test_a_corrected_label_reads_no_image_anew(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert_table("cat", "cat", "dog")
    monkeypatch.setattr(converting, "decode", None)
    convert_table("cat", "dog", "dog")
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6}


@pytest.mark.parametrize("transfer", ["hardlink", "reference"])
def test_a_corrected_label_with_every_transfer(photos: Path, transfer: str) -> None:
    convert_table("cat", "cat", "dog", "dog", transfer=transfer)
    convert_table("cat", "dog", "dog", "-", transfer=transfer)
    assert {row.name for row in read_index("out")[0]} == {"cat/0.png", "dog/1.png", "dog/2.png"}
    listing = list_labeled("out")
    assert listing.names == ("cat/0.png", "dog/1.png", "dog/2.png")
    assert all(os.path.samefile(path, photos / os.path.basename(path)) for path in listing.paths)


def write_coco(**categories: int) -> None:
    content = {
        "images": [{"id": number, "file_name": f"photos/{number}.png"} for number in range(len(categories))],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [{"image_id": int(key[1:]), "category_id": value} for key, value in categories.items()],
    }
    Path("coco.json").write_text(json.dumps(content))


def test_a_corrected_category_of_coco(photos: Path) -> None:
    write_coco(i0=0, i1=0, i2=1, i3=1)
    convert_source("coco.json", "out")
    write_coco(i0=0, i1=1, i2=1)
    convert_source("coco.json", "out")
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6}


def test_a_class_that_is_written_otherwise(photos: Path) -> None:
    convert_table("Cat", "cat", "cat")
    convert_table("cat", "cat", "cat")
    assert found() == {"cat/0.png": 4, "cat/1.png": 5, "cat/2.png": 6}


def test_another_folder_of_the_same_images(photos: Path) -> None:
    convert_table("cat", "dog")
    shutil.copytree(photos, "elsewhere/photos")
    assert convert_source("t.csv", "out", image_root="elsewhere").notes == ()
    assert found() == {"cat/0.png": 4, "dog/1.png": 5}


def test_files_of_one_size_that_changed_places(photos: Path) -> None:
    pictures = [encoded(photo(5, 4), "BMP"), encoded(photo(5, 4).rotate(180), "BMP")]
    for label, content in zip(("cat", "dog"), pictures, strict=True):
        Path("data", label).mkdir(parents=True)
        Path("data", label, "1.bmp").write_bytes(content)
    convert_source("data", "out")
    time.sleep(0.02)  # of the clock of a file system
    os.rename("data/cat/1.bmp", "data/1.bmp")
    os.rename("data/dog/1.bmp", "data/cat/1.bmp")
    os.rename("data/1.bmp", "data/dog/1.bmp")
    convert_source("data", "out")
    assert [Path("out", label, "1.bmp").read_bytes() for label in ("dog", "cat")] == pictures


@pytest.mark.parametrize("transfer", ["copy", "hardlink", "reference"])
def test_what_has_not_changed_is_not_read_again(photos: Path, transfer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    convert_table("cat", "dog", transfer=transfer)
    monkeypatch.setattr(converting, "examine", None)
    for _ in range(2):
        time.sleep(0.02)
        assert convert_table("cat", "dog", transfer=transfer).images == 2


def class_folders(photos: Path) -> Path:
    for name, label in zip(PICTURES, ("cat", "cat", "dog", "dog"), strict=True):
        Path("data", label).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, Path("data", label, name))
    return Path("data")


def test_a_file_that_was_moved_to_another_class(photos: Path) -> None:
    data = class_folders(photos)
    convert_source(data, "out")
    os.rename(data / "cat/1.png", data / "dog/1.png")
    result = convert_source(data, "out")
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6, "dog/3.png": 7}
    assert (result.images, result.added) == (4, 0)
    assert result.notes == ("moved 1 image of an earlier call: cat/1.png is dog/1.png now",)


def test_a_class_folder_that_was_renamed(photos: Path) -> None:
    data = class_folders(photos)
    convert_source(data, "out")
    os.rename(data / "cat", data / "tiger")
    assert convert_source(data, "out").classes == ("dog", "tiger")
    assert found() == {"tiger/0.png": 4, "tiger/1.png": 5, "dog/2.png": 6, "dog/3.png": 7}


def test_an_archive_with_a_file_in_another_class(photos: Path) -> None:
    data = class_folders(photos)
    shutil.make_archive("data", "zip", data)
    convert_source("data.zip", "out")
    os.rename(data / "cat/1.png", data / "dog/1.png")
    shutil.make_archive("data", "zip", data)
    convert_source("data.zip", "out")
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6, "dog/3.png": 7}


def test_an_object_in_s3_that_was_moved(photos: Path, s3: Any) -> None:
    uri = upload(s3, class_folders(photos), "moved-objects")
    convert_source(uri, "out")
    s3.upload_file("data/cat/1.png", "bucket", "moved-objects/dog/1.png")
    s3.delete_object(Bucket="bucket", Key="moved-objects/cat/1.png")
    assert convert_source(uri, "out").images == 4
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6, "dog/3.png": 7}


def test_files_that_are_gone_from_a_folder_stay_and_are_told(photos: Path) -> None:
    data = class_folders(photos)
    convert_source(data, "out")
    (data / "cat/1.png").unlink()
    result = convert_source(data, "out")
    assert len(found()) == 4
    assert result.notes == ("kept 1 image that the source has no more, as there may be no other copy: cat/1.png",)
    Path("out/cat/1.png").unlink()
    assert convert_source(data, "out").images == 3
    assert found() == {"cat/0.png": 4, "dog/2.png": 6, "dog/3.png": 7}


def test_a_second_copy_that_was_deleted(photos: Path) -> None:
    data = class_folders(photos)
    shutil.copy(data / "cat/1.png", data / "dog/x.png")
    convert_source(data, "out")
    (data / "dog/x.png").unlink()
    convert_source(data, "out")
    assert found() == {"cat/0.png": 4, "cat/1.png": 5, "dog/2.png": 6, "dog/3.png": 7}


def test_files_that_a_person_put_there_stay(photos: Path) -> None:
    convert_table("cat", "dog")
    mine = encoded(photo(50, 50), "PNG")
    Path("out/dog/2.png").write_bytes(mine)
    Path("out/dog/0.png").write_bytes(mine)
    convert_table("dog", "dog", "dog")
    assert Path("out/dog/2.png").read_bytes() == Path("out/dog/0.png").read_bytes() == mine
    assert {row.name: row.width for row in read_index("out")[0]} == {"dog/0-2.png": 4, "dog/1.png": 5, "dog/2-2.png": 6}


def test_an_image_that_a_person_moved_to_its_new_class_by_hand(photos: Path) -> None:
    convert_table("cat", "cat", "dog")
    os.rename("out/cat/1.png", "out/dog/1.png")
    convert_table("cat", "dog", "dog")
    assert found() == {"cat/0.png": 4, "dog/1.png": 5, "dog/2.png": 6}


def interrupt_after(count: int) -> Callable[[], None]:
    seen = []

    def interrupt() -> None:
        seen.append(1)
        if len(seen) == count:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize(
    "last", [("cat", "dog", "dog", "cat"), ("cat", "cat", "dog", "cat"), ("-", "dog", "dog", "cat")]
)
def test_a_correction_that_was_interrupted(photos: Path, last: tuple[str, ...]) -> None:
    convert_table("cat", "cat", "dog")
    Path("t.csv").write_text("filename,label\nphotos/0.png,cat\nphotos/1.png,dog\nphotos/3.png,dog\n")
    with pytest.raises(KeyboardInterrupt):
        convert_source("t.csv", "out", on_image=interrupt_after(1))
    assert found() == {"cat/0.png": 4, "cat/1.png": 5, "dog/2.png": 6}  # until the next call is done
    convert_table(*last)
    expected = {f"{label}/{number}.png": 4 + number for number, label in enumerate(last) if label != "-"}
    assert found() == expected
