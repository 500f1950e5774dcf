from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, MissingPackageError
from mlflow_resnet.images.audit.image_facts import hash_pixels
from mlflow_resnet.images.directories import LabeledDirectory, list_labeled
from mlflow_resnet.images.pairs import RADIUS, look_alike_pairs
from mlflow_resnet.images.splitting.directory_split import split_directory, split_labeled
from mlflow_resnet.images.splitting.groups import assign_groups
from mlflow_resnet.images.splitting.stratified import split_groups
from mlflow_resnet.options import SplitOptions


def split(image_dir, train_dir, val_dir, test_dir="", **given):
    places = {"image_dir": image_dir, "train_dir": train_dir, "val_dir": val_dir, "test_dir": test_dir}
    options = {"duplicates": "ignore"} | {name: str(place) for name, place in places.items()} | given
    return split_directory(SplitOptions(**options))


def smooth(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """A smooth picture that no other seed has."""
    colors = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two classes, 20 patients with 1 to 4 pictures each: `scans/ill/p07_2.png`. All pictures differ."""
    for label, first in (("ill", 0), ("well", 10)):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for patient in range(first, first + 10):
            for number in range(1 + patient % 4):
                smooth(10 * patient + number).save(tmp_path / "scans" / label / f"p{patient:02}_{number}.png")
    return tmp_path / "scans"


def patients(part: LabeledDirectory) -> set[str]:
    return {name.rpartition("/")[2].partition("_")[0] for name in part.names}


def test_all_pictures_of_a_patient_stay_on_one_side(scans: Path, tmp_path: Path) -> None:
    train, val, test = split(
        scans,
        tmp_path / "train",
        tmp_path / "val",
        tmp_path / "test",
        fraction=0.6,
        test_fraction=0.2,
        group_regex=r"^(p\d+)_",
    )
    everyone = patients(list_labeled(scans))
    assert patients(train) | patients(val) | patients(test) == everyone
    assert len(patients(train)) + len(patients(val)) + len(patients(test)) == len(everyone)
    images = len(list_labeled(scans))
    for part, share in ((train, 0.6), (val, 0.2), (test, 0.2)):
        assert len(part) == pytest.approx(share * images, abs=2)
        assert set(part.labels) == {"ill", "well"}
    assert Counter(train.labels)["ill"] == pytest.approx(0.6 * list_labeled(scans).counts()["ill"], abs=2)


@pytest.mark.parametrize("names", ["full", "below the class", "file"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_groups_of_a_table(scans: Path, tmp_path: Path, names: str, suffix: str) -> None:
    given_names = list_labeled(scans).names
    cut = {"full": lambda name: name, "below the class": lambda name: name.split("/")[1], "file": lambda n: f"x/{n}"}
    rows = [{"image": cut[names](name), "module": name.split("/")[1][:3]} for name in given_names]
    write = pd.DataFrame(rows).to_csv if suffix == ".csv" else pd.DataFrame(rows).to_parquet
    write(tmp_path / f"table{suffix}", index=False)
    table = str(tmp_path / f"table{suffix}")
    train, val = split(
        scans, tmp_path / "train", tmp_path / "val", fraction=0.7, group_table=table, group_column="module"
    )
    assert not patients(train) & patients(val)


def test_a_group_of_which_the_table_or_the_name_says_nothing(scans: Path, tmp_path: Path) -> None:
    pd.DataFrame({"image": ["p00_0.png"], "module": ["a"]}).to_csv(tmp_path / "t.csv")
    outputs = (tmp_path / "train", tmp_path / "val")
    with pytest.raises(InvalidDatasetError, match=r"images of .*scans have no row, or no module: ill/p01_0.png"):
        split(scans, *outputs, group_table=str(tmp_path / "t.csv"), group_column="module")
    with pytest.raises(InvalidDatasetError, match="no group column 'patient', but"):
        split(scans, *outputs, group_table=str(tmp_path / "t.csv"), group_column="patient")
    with pytest.raises(InvalidDatasetError, match="finds nothing in .* names: ill/p00_0.png"):
        split(scans, *outputs, group_regex="q")
    with pytest.raises(InvalidOptionsError, match="no regular expression"):
        split(scans, *outputs, group_regex="(")
    assert not any(output.exists() for output in outputs)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_images_without_a_group_in_a_table_are_no_group(scans: Path, tmp_path: Path, suffix: str) -> None:
    names = list_labeled(scans).names
    table = pd.DataFrame({"image": names, "patient": [None] * 6 + ["x", *names[7:]]})
    write = table.to_csv if suffix == ".csv" else table.to_parquet
    write(tmp_path / f"t{suffix}", index=False)
    with pytest.raises(InvalidDatasetError, match="6 images of .* have no row, or no patient: ill/p00_0.png"):
        split(
            scans,
            tmp_path / "train",
            tmp_path / "val",
            group_table=str(tmp_path / f"t{suffix}"),
            group_column="patient",
        )


def test_groups_of_a_table_that_excel_and_windows_wrote(scans: Path, tmp_path: Path) -> None:
    names = list_labeled(scans).names
    rows = [f"C:\\scans\\{name} ; {name.split('/')[1][:3]}".replace("/", "\\") for name in names]
    (tmp_path / "t.csv").write_text("\n".join(["Image;Patient", *rows]), encoding="utf-16")
    outputs = (tmp_path / "train", tmp_path / "val")
    train, val = split(scans, *outputs, fraction=0.7, group_table=str(tmp_path / "t.csv"), group_column="patient")
    assert not patients(train) & patients(val)


def test_groups_0_and_1_and_their_floats(scans: Path, tmp_path: Path) -> None:
    directory = list_labeled(scans)
    groups = [0, 0.0, False, 1, 1.0, "1"] + ["2"] * (len(directory) - 6)
    lines = [json.dumps({"image": name, "group": group}) for name, group in zip(directory.names, groups, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    given = {"group_table": tmp_path / "t.jsonl", "group_column": "group", "duplicates": "ignore"}
    found = assign_groups(directory, SplitOptions(image_dir=scans, train_dir="train", val_dir="val", **given))
    assert found[0] == found[1] != found[2] != found[3]
    assert found[3] == found[4] == found[5] != found[6]


def test_an_image_in_two_groups(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,patient\nill/p00_0.png,a\nill/p00_0.png,b\n")
    with pytest.raises(InvalidDatasetError, match="ill/p00_0.png is in two groups of patient: a and b"):
        split(scans, tmp_path / "train", tmp_path / "val", group_table=str(tmp_path / "t.csv"), group_column="patient")


def test_groups_that_cannot_be_divided(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetError, match="in 1 groups that stay whole, and a part is empty"):
        split(scans, tmp_path / "train", tmp_path / "val", group_regex="p")


def test_the_same_picture_is_never_on_both_sides(scans: Path, tmp_path: Path) -> None:
    for number in range(8):
        smooth(777).save(scans / "ill" / f"copy{number}.{'png' if number % 2 else 'bmp'}")
    parts = split(scans, tmp_path / "train", tmp_path / "val", fraction=0.5, duplicates="exact")
    assert sorted(sum("copy" in name for name in part.names) for part in parts) == [0, 8]


def test_pictures_that_look_alike_stay_together(scans: Path, tmp_path: Path) -> None:
    for number, quality in enumerate((95, 80, 60, 40)):
        size = 200 - 20 * number
        smooth(778, 200, 200).resize((size, size)).save(scans / "ill" / f"copy{number}.jpg", quality=quality)
    parts = split(scans, tmp_path / "train", tmp_path / "val", fraction=0.5, duplicates="near")
    assert sorted(sum("copy" in name for name in part.names) for part in parts) == [0, 4]


def test_without_imagehash_the_command_says_how_to_install_it(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(MissingPackageError, match="pip install 'imagehash>=4.3'"):
        split(scans, tmp_path / "train", tmp_path / "val", duplicates="near")


def test_training_does_not_validate_on_copies_of_what_it_trains_on(scans: Path) -> None:
    directory = list_labeled(scans)
    contents = dict.fromkeys(directory.names[:6], "the same") | {name: name for name in directory.names[6:]}
    train, val = split_labeled(directory, 0.7, 1, contents)
    assert len({name in train.names for name in directory.names[:6]}) == 1
    assert len(train) + len(val) == len(directory)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fraction": 0.9, "test_fraction": 0.2}, "fraction 0.9 and test_fraction 0.2 leave nothing"),
        ({"test_fraction": 0.0}, "test_dir is given, but neither test_fraction nor test_count"),
        ({"test_count": 10_000}, "asked for|parts of"),
    ],
)
def test_impossible_third_parts(scans: Path, tmp_path: Path, options: dict[str, float], problem: str) -> None:
    with pytest.raises(InvalidOptionsError, match=problem):
        split(scans, tmp_path / "train", tmp_path / "val", tmp_path / "test", **options)  # type: ignore[arg-type]


def test_three_parts_with_every_class_in_each(scans: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("train", "val", "test")]
    parts = split(scans, *outputs, fraction=0.6, test_count=10)
    images = len(list_labeled(scans))
    assert [len(part) for part in parts] == [int(0.6 * images), images - int(0.6 * images) - 10, 10]
    assert all(set(part.labels) == {"ill", "well"} for part in parts)
    assert sorted(name for part in parts for name in part.names) == sorted(list_labeled(scans).names)


@given(st.lists(st.integers(0, 30), min_size=5, max_size=200), st.integers(0, 1000))
def test_groups_stay_whole_and_every_image_has_one_part(groups: list[int], seed: int) -> None:
    labels = ["ab"[group % 2] for group in groups]
    count = len(groups)
    parts = split_groups(labels, groups, [count - 2 * (count // 4), count // 4, count // 4], seed)
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert sum(len({groups[index] for index in part}) for part in parts) == len(set(groups))
    assert parts == split_groups(labels, groups, [count - 2 * (count // 4), count // 4, count // 4], seed)


def test_every_pair_within_the_radius_is_found() -> None:
    generator = np.random.default_rng(0)
    looks: list[int | None] = [int(value) for value in generator.integers(0, 2**63, 300)]
    for _ in range(300):
        look = looks[int(generator.integers(300))]
        flipped = generator.choice(64, int(generator.integers(0, 9)), replace=False)
        assert look is not None
        looks.append(look ^ sum(1 << int(bit) for bit in flipped))
    looks.append(None)
    known = [(index, look) for index, look in enumerate(looks) if look is not None]
    near = {(i, j) for i, a in known for j, b in known if i < j and (a ^ b).bit_count() <= RADIUS}
    assert set(look_alike_pairs(looks)) == near
    assert len(near) > 100


def test_many_equal_looks_are_connected_without_comparing_all() -> None:
    pairs = look_alike_pairs([7] * 5_000)
    assert len(pairs) < 10_000
    assert {index for pair in pairs for index in pair} == set(range(5_000))


def test_a_fingerprint_is_of_the_pixels() -> None:
    picture = smooth(1, 30, 20)
    assert hash_pixels(picture) == hash_pixels(picture.copy())
    assert hash_pixels(picture) != hash_pixels(picture.transpose(Image.Transpose.ROTATE_180))
    assert hash_pixels(smooth(1, 20, 30)) != hash_pixels(picture)


def test_groups_that_leave_a_part_empty_name_the_fraction_that_is_enough(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number in range(20):
        write_image(f"walks/{'cat' if number % 2 else 'dog'}/{number // 4}_{number}.png")
    outputs = tmp_path / "train", tmp_path / "val"
    with pytest.raises(
        InvalidDatasetError, match=r"5 groups that stay whole, and a part is empty. Give --fraction 0.85\."
    ):
        split(tmp_path / "walks", *outputs, group_regex="^[^_]+")
    assert [len(part) for part in split(tmp_path / "walks", *outputs, group_regex="^[^_]+", fraction=0.85)] == [16, 4]


def test_copies_of_one_picture_that_leave_nothing_to_validate_on_name_trainings_option(pets: Path) -> None:
    directory = list_labeled(pets)
    same = {name: str(index // 5) for index, name in enumerate(directory.names)}
    with pytest.raises(InvalidDatasetError, match=r"in 3 groups that stay whole, and .*Give --val-fraction 0\.25\."):
        split_labeled(directory, 0.9, 1, same)
    assert [len(part) for part in split_labeled(directory, 0.75, 1, same)] == [10, 5]
