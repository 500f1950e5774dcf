"""Tables as people have them: what their cells say, images inside, odd columns."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import convert_source, run_main
from made_images import encoded, photo
from PIL import Image

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.images.cells import find_column, format_cell, spell_path
from mlflow_resnet.images.index import read_index

ROWS = [(f"photos/{number}.png", "cat" if number % 2 else "dog") for number in range(6)]
PICTURES = [encoded(photo(4 + number, 3), "PNG") for number in range(6)]
PER_CLASS = {"cat": 3, "dog": 3}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos, in which the test runs."""
    (tmp_path / "photos").mkdir()
    for number, content in enumerate(PICTURES):
        (tmp_path / f"photos/{number}.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts(output: Path | str = "out") -> dict[str, int]:
    """Images in each class folder; those beside them are of class ""."""
    rows, _ = read_index(output)
    assert {row.name for row in rows} == {
        path.relative_to(output).as_posix() for path in Path(output).rglob("*") if path.suffix in (".png", ".jpg")
    }
    found = {path.name: 0 for path in Path(output).iterdir() if path.is_dir()}
    for row in rows:
        found[row.label] = found.get(row.label, 0) + 1
    return found


WRITERS: dict[str, Callable[[pd.DataFrame], object]] = {
    "t.csv": lambda table: table.to_csv("t.csv", index=False),
    "t.parquet": lambda table: table.to_parquet("t.parquet"),
    "t.jsonl": lambda table: table.to_json("t.jsonl", orient="records", lines=True),
}
LABELS: dict[str, tuple[list[Any], dict[str, int]]] = {
    "integers": ([0, 1, 2, 0, 1, 2], {"0": 2, "1": 2, "2": 2}),
    "truth values": ([True, False] * 3, {"True": 3, "False": 3}),
    "floats": ([0.0, 1.0] * 3, {"0": 3, "1": 3}),
    "integers and nothing": ([0, 1, 0, 1, None, None], {"0": 2, "1": 2}),
    "fractions": ([0.5, 1.0] * 3, {"0.5": 3, "1": 3}),
}


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("kind", LABELS)
def test_a_label_0_keeps_its_class_in_every_kind_of_table(folder: Path, file: str, kind: str) -> None:
    labels, expected = LABELS[kind]
    WRITERS[file](pd.DataFrame({"image": [path for path, _ in ROWS], "label": labels}))
    result = convert_source(file, "out")
    if (file, kind) == ("t.csv", "fractions"):  # CSV says 1.0, and what its column is made of is not known
        expected = {"0.5": 3, "1.0": 3}
    assert counts() == expected
    assert set(result.unreadable.values()) <= {"no label"}


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (0, "0"),
        (False, "False"),
        (-0.0, "0"),
        (7.0, "7"),
        (0.25, "0.25"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        (float("nan"), ""),
        (None, ""),
        (Decimal("2.00"), "2"),
        (" a cat\t", "a cat"),
        ("007", "007"),
        ("nan", "nan"),
        (np.float32(1), "1"),
        (np.int64(0), "0"),
        (np.bool_(False), "False"),
        (b"cat", "cat"),
        (b"\xff", "\\xff"),
    ],
)
def test_what_a_cell_says(cell: object, text: str) -> None:
    assert format_cell(cell) == text


def test_nothing_is_a_label_in_no_kind_of_table(folder: Path) -> None:
    Path("t.jsonl").write_text('{"image": "photos/0.png", "label": NaN}\n{"image": "photos/1.png", "label": "cat"}\n')
    assert convert_source("t.jsonl", "out").unreadable == {"photos/0.png": "no label"}
    assert counts() == {"cat": 1}


def as_hugging_face(names: list[str] | None = None, **columns: Any) -> pa.Table:
    """A table as `datasets` writes it to Parquet."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(PICTURES)]
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array([0, 1] * 3, pa.int64())} | columns)
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    facts = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(facts)})


def test_images_in_a_parquet_of_hugging_face(folder: Path) -> None:
    pq.write_table(as_hugging_face(), "hf.parquet")
    result = convert_source("hf.parquet", "out")
    assert (result.images, result.unreadable) == (6, {})
    assert counts() == {"0": 3, "1": 3}
    assert Path("out/1/3.png").read_bytes() == PICTURES[3]
    assert convert_source("hf.parquet", "out").added == 0


def test_numbers_of_hugging_face_have_their_names(folder: Path) -> None:
    labels = pa.array([0, 1, 0, 1, -1, 2])
    pq.write_table(as_hugging_face(["cat", "dog"], label=labels), "hf.parquet")
    result = convert_source("hf.parquet", "out")
    assert counts() == {"cat": 2, "dog": 2}
    assert result.unreadable == {
        "row 5": "no label",
        "row 6": "label 2 is none of the 2 classes of the table",
    }


@pytest.mark.parametrize(
    "facts", [b"", b"[", b"[]", b'{"info": 1}', b'{"info": {"features": {"label": {"names": 1}}}}']
)
def test_other_metadata_of_hugging_face_is_passed_over(folder: Path, facts: bytes) -> None:
    pq.write_table(as_hugging_face().replace_schema_metadata({"huggingface": facts}), "hf.parquet")
    convert_source("hf.parquet", "out")
    assert counts() == {"0": 3, "1": 3}


def test_images_of_hugging_face_that_lie_elsewhere(folder: Path) -> None:
    cells = [{"bytes": None, "path": path} for path, _ in ROWS]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(as_hugging_face(image=pa.array(cells, kind)), "hf.parquet")
    convert_source("hf.parquet", "out")
    assert counts() == {"0": 3, "1": 3}


KINDS_OF_BYTES = {
    "list of one": lambda content: pa.array([[each] for each in content]),
    "list of one record": lambda content: pa.array([[{"bytes": each}] for each in content]),
    "view": lambda content: pa.array(content, pa.binary_view()),
    "dictionary": lambda content: pa.array(content).dictionary_encode(),
    "record without a path": lambda content: pa.array([{"bytes": each} for each in content]),
    "base64": lambda content: pa.array([base64.b64encode(each).decode() for each in content]),
    "data URI": lambda content: pa.array(
        ["data:image/png;base64," + base64.b64encode(each).decode() for each in content]
    ),
}


@pytest.mark.parametrize("kind", KINDS_OF_BYTES)
def test_images_in_a_column_however_they_are_written(folder: Path, kind: str) -> None:
    pq.write_table(pa.table({"image": KINDS_OF_BYTES[kind](PICTURES), "label": ["cat", "dog"] * 3}), "t.parquet")
    assert convert_source("t.parquet", "out").unreadable == {}
    assert counts() == PER_CLASS


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_images_in_base64_in_text(folder: Path, suffix: str) -> None:
    table = pd.DataFrame({"image": [base64.b64encode(each).decode() for each in PICTURES], "label": ["cat", "dog"] * 3})
    WRITERS[f"t.{suffix}"](table)
    assert convert_source(f"t.{suffix}", "out").unreadable == {}
    assert counts() == PER_CLASS


def test_lists_of_labels(folder: Path) -> None:
    labels = pa.array([[0], [1], [0, 1], [], None, [1]])
    pq.write_table(pa.table({"image": [path for path, _ in ROWS], "label": labels}), "t.parquet")
    assert list(convert_source("t.parquet", "out").unreadable.values()) == [
        "several values in label: [0, 1]",
        "no label",
        "no label",
    ]
    assert counts() == {"0": 1, "1": 2}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_in_a_column_of_bytes(folder: Path, kind: pa.DataType) -> None:
    content = [*PICTURES, b"no image", None, PICTURES[0], PICTURES[1]]
    labels = ["cat", "dog"] * 4 + ["cat", "cat"]
    pq.write_table(pa.table({"picture": pa.array(content, kind), "label": labels}), "t.parquet")
    result = convert_source("t.parquet", "out")
    assert counts() == {"cat": 3, "dog": 2}
    reasons = {place: reason.partition(" (")[0] for place, reason in result.unreadable.items()}
    assert reasons == {
        "row 7": "not an image of a supported format",
        "row 8": "no picture",
        "row 2": "2 labels",
        "row 10": "2 labels",
    }
    assert result.notes == ("counted once: 1 row with the image and label of an earlier one",)
    names = {row.name for row in read_index("out")[0]}
    assert all(len(name.split("/")[1]) == 16 + len(".png") for name in names)  # made of the content


@pytest.mark.parametrize(
    "path", ["../../x.png", "/etc/x.png", "a\0.png", ".x.png", "C:\\a\\x.png", "x" * 300, "", "..", None]
)
def test_what_an_image_was_called_elsewhere_leads_nowhere(folder: Path, path: str | None) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": PICTURES[0], "path": path}], kind)
    pq.write_table(pa.table({"image": cells, "label": ["cat"]}), "hf.parquet")
    before = set(folder.rglob("*"))
    convert_source("hf.parquet", "out")
    assert counts() == {"cat": 1}
    assert {path for path in folder.rglob("*") if not path.is_relative_to(folder / "out")} == before


def test_large_images_in_a_table_are_in_memory_one_by_one(folder: Path) -> None:
    draw = np.random.default_rng(0)
    content = [encoded(Image.fromarray(draw.integers(0, 255, (150, 150, 3), np.uint8)), "PNG") for _ in range(60)]
    pq.write_table(pa.table({"image": pa.array(content, pa.binary()), "label": ["a"] * 60}), "t.parquet")
    tracemalloc.start()
    assert convert_source("t.parquet", "out", num_workers=1).images == 60
    assert tracemalloc.get_traced_memory()[1] < sum(map(len, content)) / 4
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (
            {"image": [{"a": 1}], "label": ["cat"]},
            "column 'image' is of type struct<a: int64>, which is neither a path",
        ),
        ({"image": [[{"a": 1}]], "label": ["cat"]}, "column 'image' is of type list<"),
        ({"image": ["1.png"], "label": [{"a": 1}]}, "column 'label' is of type struct<a: int64>, which is no label"),
        ({"image": [b"x"], "picture": [b"x"], "label": ["cat"]}, "none of its 1 images can be read"),
        ({"a": [b"x"], "b": [b"x"]}, "no image column of the usual names"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused_once(folder: Path, columns: dict[str, Any], problem: str) -> None:
    pq.write_table(pa.table(columns), "t.parquet")
    done = run_main("convert", "--source", "t.parquet", "--output-dir", "out")
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("cell", [f"{PICTURES[0]!r}" * 100, {"bytes": "x" * 10_000, "path": None}])
def test_bytes_written_as_text_do_not_flood_the_terminal(folder: Path, cell: object) -> None:
    with open("t.jsonl", "w") as file:
        file.writelines(json.dumps({"image": cell, "label": "cat"}) + "\n" for _ in range(50))
    done = run_main("convert", "--source", "t.jsonl", "--output-dir", "out")
    assert done.returncode == 2
    assert "none of its 50 images can be read: row 1 (" in done.stderr
    assert "and 49 more like it" in done.stderr
    assert len(done.stderr) < 300


def with_rows(header: str, separator: str = ",") -> str:
    return f"{header}\n" + "".join(f"{path}{separator}{label}\n" for path, label in ROWS)


ODD: dict[str, bytes] = {
    "Label": with_rows("filename,Label").encode(),
    "a blank after each comma": with_rows("filename, label", ", ").encode(),
    "File Name": with_rows("File Name,Class").encode(),
    "labels": with_rows("filename,labels").encode(),
    "blanks around some cells": with_rows("filename,label").replace("cat", " cat ", 2).encode(),
    "semicolons": with_rows("filename;label", ";").encode(),
    "semicolons of Excel": b"sep=;\r\n" + with_rows("filename;label", ";").encode(),
    "tabs": with_rows("filename\tlabel", "\t").encode(),
    "UTF-16": with_rows("filename,label").encode("utf-16"),
    "UTF-16 without a mark": with_rows("filename,label").encode("utf-16-le"),
    "UTF-8 with a mark": with_rows("filename,label").encode("utf-8-sig"),
    "Windows' paths": with_rows("filename,label").replace("/", "\\").replace("\n", "\r\n").encode(),
    "Kaggle's ids": with_rows("filename,label").replace(".png", "").encode(),
    "empty cells behind": with_rows("filename,label").replace("cat\n", "cat,,\n").encode(),
    "empty lines before": b"\n\n" + with_rows("filename,label").encode(),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tables_are_read_as_they_are_meant(folder: Path, kind: str) -> None:
    Path("t.csv").write_bytes(ODD[kind])
    result = convert_source("t.csv", "out")
    assert counts() == PER_CLASS
    assert (result.unreadable, result.notes) == ({}, ())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("image,Label,LABEL\n", "several columns are called label: 'Label', 'LABEL'; rename one"),
        ("image,label,label\n", "several columns are called label: 'label', 'label'; rename one"),
        ("photos/0.png,cat\n", "its first line is an image. Add one before it, such as image,label"),
        (
            "image,label\nphotos/0.png,fa\xe9\n",
            r"it is not in UTF-8 \(byte 0xe9\); save it as UTF-8, in Excel as CSV UTF-8",
        ),
    ],
)
def test_tables_with_two_meanings_are_refused(folder: Path, content: str, problem: str) -> None:
    Path("t.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidDatasetError, match=problem):
        convert_source("t.csv", "out")


def test_whole_numbers_with_a_point_are_told(folder: Path) -> None:
    Path("t.csv").write_text("image,label\nphotos/0.png,1.0\nphotos/1.png,\nphotos/2.png,-2.0\n")
    assert convert_source("t.csv", "out").notes == (
        "labels such as 1.0 in column 'label' are taken as whole numbers, such as 1",
    )
    assert counts() == {"1": 1, "-2": 1}
    Path("versions.csv").write_text("image,label\nphotos/0.png,1.0\nphotos/2.png,1.1\n")
    assert convert_source("versions.csv", "out2").notes == ()
    assert counts("out2") == {"1.0": 1, "1.1": 1}


def test_what_was_not_understood_is_told(folder: Path) -> None:
    Path("t.csv").write_text(with_rows("image,breed"))
    done = run_main("convert", "--source", "t.csv", "--output-dir", "out")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == (
        "no column of labels among the usual names; not used: 'breed'. Name one with --label-column"
    )
    Path("t.csv").write_text(with_rows("image,label").replace("cat", "Cat", 1))
    done = run_main("convert", "--source", "t.csv", "--output-dir", "out")
    assert "classes 'Cat' and 'cat' differ only in case or blanks; if they are one, write them alike" in done.stdout
    assert "moved 6 images of an earlier call: 0.png is dog/0.png now" in done.stdout
    assert counts() == {"Cat": 1, "cat": 2, "dog": 3}


def test_a_label_that_only_later_lines_have(folder: Path) -> None:
    Path("t.jsonl").write_text('{"image": "photos/0.png"}\n{"image": "photos/1.png", "label": "cat"}\n')
    assert convert_source("t.jsonl", "out").unreadable == {"photos/0.png": "no label"}
    assert counts() == {"cat": 1}


def test_a_comma_in_a_path_without_quotation_marks(folder: Path) -> None:
    Path("t.csv").write_text("image,label\nphotos/a,b.png,cat\nphotos/1.png,cat\n")
    assert list(convert_source("t.csv", "out").unreadable.values()) == [
        "more cells than the header has; put quotation marks around text with a comma"
    ]


def test_a_row_that_is_left_out_makes_no_class_of_its_folder(folder: Path) -> None:
    Path("t.csv").write_text("image,label\nphotos/0.png,\nphotos/1.png,cat\nhttps://a/b.png,dog\n")
    assert convert_source("t.csv", "out").classes == ("cat", "dog")


def test_columns_and_paths_are_found_as_they_are_written_first() -> None:
    assert find_column(["Label", "label"], ["label"]) == "label"
    assert find_column([" Image-URL "], ["image", "image_url"]) == " Image-URL "
    assert find_column(["a"], ["b"]) == ""
    assert spell_path(" a\\b.png") == [" a\\b.png", "a\\b.png", "a/b.png"]
    assert spell_path("s3://a\\b") == ["s3://a\\b"]


def test_a_file_whose_name_has_a_backslash_is_that_file(folder: Path) -> None:
    (folder / "photos\\0.png").write_bytes(PICTURES[5])
    Path("t.csv").write_text("image,label\nphotos\\0.png,cat\n")
    convert_source("t.csv", "out")
    assert read_index("out")[0][0].width == 9


def test_an_id_that_two_images_have_is_refused(folder: Path) -> None:
    (folder / "photos" / "0.JPG").write_bytes(PICTURES[5])
    Path("t.csv").write_text("image,label\nphotos/0,cat\nphotos/1,cat\nphotos,dog\n")
    assert list(convert_source("t.csv", "out").unreadable.values()) == ["no such file", "is a directory"]
    assert counts() == {"cat": 1, "dog": 0}


def test_the_categories_of_coco_are_cells_too(folder: Path) -> None:
    names = [0, " cat", None]
    content = {
        "images": [{"id": number, "file_name": path} for number, (path, _) in enumerate(ROWS[:3])],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "category_id": number} for number in range(3)],
    }
    Path("coco.json").write_text(json.dumps(content))
    assert convert_source("coco.json", "out").unreadable == {"photos/2.png": "no category"}
    assert counts() == {"0": 1, "cat": 1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]},
            "several of its images have the id",
        ),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "several of its categories have the id '?1"),
        (
            {"annotations": [{"image_id": 7, "category_id": 1}]},
            "an annotation is about id '?7'?, which none of its images",
        ),
        ({"annotations": [{"image_id": 1, "category_id": 7}]}, "about id '?7'?, which none of its categories has"),
    ],
)
def test_annotations_of_coco_that_contradict_themselves(folder: Path, changes: dict[str, Any], problem: str) -> None:
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    Path("coco.json").write_text(json.dumps(content | changes))
    with pytest.raises(InvalidDatasetError, match=problem):
        convert_source("coco.json", "out")
