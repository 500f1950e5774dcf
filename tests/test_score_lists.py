"""Scoring lists and parts: every line gives a row, and the parts together are the whole."""

import os
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import COLORS, run_main, upload, write_picture
from rounding import assert_same_probabilities, of_auto

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError
from mlflow_resnet.options import ScoreOptions
from mlflow_resnet.scoring.to_file.lists import ImageList
from mlflow_resnet.verbs.score import score

MODEL = "models:/colors@champion"
PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]


def options(image_dir, output, **changes):
    return ScoreOptions(**{"model_uri": MODEL, "image_dir": str(image_dir), "output": str(output)} | changes)


def scored_rows(image_dir, output, **changes):
    score(options(image_dir, output, **changes))
    return pd.read_parquet(output)


def write_lines(path, names):
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")


def write_only_column(path, names):
    pd.DataFrame({"photo, of what": names}).to_csv(path, index=False)


def write_csv(path, names):
    pd.DataFrame({"label": "x", "image": names, "path": "not this one"}).to_csv(path, index=False)


def write_parquet(path, names):
    table = pa.table({"size": list(range(len(names))), "path": pa.array([name or None for name in names])})
    pq.write_table(table, path, row_group_size=2)


WRITERS = {
    "LINES.TXT": write_lines,
    "table.csv": write_csv,
    "only column.csv": write_only_column,
    "table.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_line_of_a_list_gives_a_row_in_its_order(name, trained, images, tmp_path, s3, monkeypatch):
    shutil.copytree(images / "val", tmp_path / "lists" / "val")
    uri = upload(s3, images / "val" / "grün", "listed pictures")
    names = [
        "val/007/03.jpg",
        "val/blue sky/00.jpg",
        str(images / "val" / "grün" / "01.jpg"),
        f"{uri}/01.jpg",
        "val/missing.jpg",
        "val/007/03.jpg",
        "",
        f"{uri}/missing.jpg",
        "s3://Bucket/a.jpg",
        "https://example.org/a.jpg",
        "val",
        "val/007/00.jpg",
    ]
    WRITERS[name](tmp_path / "lists" / name, names)
    monkeypatch.chdir(tmp_path)
    rows = scored_rows(f"lists/{name}", "scored.parquet")
    assert list(rows["image"]) == [name or "row 7" for name in names]
    reasons = {
        "val/missing.jpg": "no such file",
        "row 7": "the list names no image here",
        f"{uri}/missing.jpg": "nothing there. Check the bucket and the prefix.",
        "s3://Bucket/a.jpg": "'Bucket' is no name of a bucket: 3 to 63 lowercase letters, digits, dots and hyphens. "
        "Write s3://bucket/prefix.",
        "https://example.org/a.jpg": "URLs are not opened; download the image and pass its path or bytes",
        "val": "is a directory",
    }
    assert {row.image: row.error for row in rows.itertuples() if row.error} == reasons
    assert list(rows["Scored Labels"].dropna()) == ["007", "blue sky", "grün", "grün", "007", "007"]
    direct = mlflow_predict(trained, [tmp_path / "lists" / name if name[0] == "v" else name for name in names[:4]])
    assert_same_probabilities(rows.loc[:3, PROBABILITIES], direct[PROBABILITIES], of_auto())


def mlflow_predict(trained, paths):
    import mlflow

    return mlflow.pyfunc.load_model(trained.model_uri).predict([str(path) for path in paths])


def test_a_list_in_s3_names_what_lies_beside_it(trained, images, tmp_path, s3):
    shutil.copytree(images / "val", tmp_path / "beside" / "val")
    names = [
        "val/007/00.jpg",
        "val/blue sky/00.jpg",
        "s3://bucket/beside/val/007/01.jpg",
        str(images / "val/007/00.jpg"),
    ]
    write_lines(tmp_path / "beside" / "list.txt", names)
    upload(s3, tmp_path / "beside", "beside")
    rows = scored_rows("s3://bucket/beside/list.txt", tmp_path / "scored.parquet")
    assert list(rows["image"]) == names
    assert list(rows["Scored Labels"]) == ["007", "blue sky", "007", "007"]


def test_a_path_that_is_not_utf8(trained, images, tmp_path):
    os.mkdir(tmp_path / "z\udcff")
    shutil.copy(images / "val" / "007" / "00.jpg", tmp_path / "z\udcff" / "1.jpg")
    write_lines(tmp_path / "list.txt", ["z\udcff/1.jpg"])
    rows = scored_rows(tmp_path / "list.txt", tmp_path / "scored.parquet")
    assert list(rows["image"]) == [r"z\xff/1.jpg"]
    assert list(rows["Scored Labels"]) == ["007"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", "", "a list without images"),
        ("list.csv", "", "no column image or path among none. Name it so."),
        ("list.csv", "image\n", "a list without images"),
        ("list.csv", "a,b\n1,2\n", "no column image or path among 'a', 'b'. Name it so."),
        ("list.csv", "a.jpg\nb.jpg\n", "its first line is an image. Add one before it: image."),
        ("list.parquet", "no table", "cannot be read as a list of images"),
    ],
)
def test_a_list_that_cannot_be_used(name, content, message, trained, tmp_path):
    (tmp_path / name).write_text(content)
    result = run_main(
        "score", "--model-uri", MODEL, "--image-dir", tmp_path / name, "--output", tmp_path / "scored.csv"
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"mlflow-resnet: {tmp_path / name}: {message}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("kind", ["records", "bytes"])
def test_a_list_that_holds_the_images_themselves(kind, trained, images, tmp_path):
    paths = sorted((images / "val").glob("*/*.jpg"))[:3]
    content = [*(path.read_bytes() for path in paths), b"no image", b"", None]
    cells = pa.array(content, pa.binary())
    if kind == "records":
        names = [str(path) for path in paths] + [None, None, str(paths[0])]
        cells = pa.StructArray.from_arrays([cells, pa.array(names)], ["bytes", "path"])
    pq.write_table(pa.table({"label": list(range(6)), "picture": cells}), tmp_path / "list.parquet")
    rows = scored_rows(tmp_path / "list.parquet", tmp_path / "scored.parquet")
    last = str(paths[0]) if kind == "records" else "row 6"
    assert list(rows["image"]) == ["row 1", "row 2", "row 3", "row 4", "row 5", last]
    errors = ["" if kind == "records" else "the list names no image here"]
    assert list(rows["error"][:3]) + list(rows["error"][4:]) == ["", "", "", "empty file", *errors]
    assert rows["error"][3].startswith("not an image of a supported format")
    direct = mlflow_predict(trained, paths)
    assert_same_probabilities(rows.loc[:2, PROBABILITIES], direct[PROBABILITIES], of_auto())


ODD_LISTS = {
    "utf16.txt": lambda names: "\n".join(names).encode("utf-16"),
    "blanks.txt": lambda names: "\n".join(f" {name} " for name in names).encode(),
    "windows.txt": lambda names: "\r\n".join(names).replace("/", "\\").encode(),
    "ids.csv": lambda names: "\n".join(["image", *names]).replace(".jpg", "").encode(),
    "semicolons.csv": lambda names: "".join(f"{line};x\n" for line in ["Image", *names]).encode(),
    "tabs.csv": lambda names: "".join(f"x\t{line}\n" for line in ["path", *names]).encode("utf-8-sig"),
    "blanks.csv": lambda names: "".join(f"x, {line}\n" for line in ["image", *names]).encode(),
}


@pytest.mark.parametrize("name", ODD_LISTS)
def test_odd_lists_are_read_as_they_are_meant(name, images, tmp_path):
    shutil.copytree(images / "val", tmp_path / "val")
    paths = sorted((tmp_path / "val" / "007").glob("*.jpg"))[:2]
    (tmp_path / name).write_bytes(ODD_LISTS[name]([f"val/007/{path.name}" for path in paths]))
    sources = list(ImageList(str(tmp_path / name)).sources(lambda place: True))
    assert [source.read() for source in sources] == [path.read_bytes() for path in paths]


def test_a_list_of_numbers_and_one_of_no_paths(tmp_path):
    pq.write_table(pa.table({"image": [7, 8]}), tmp_path / "list.parquet")
    assert list(ImageList(str(tmp_path / "list.parquet")).entries()) == ["7", "8"]
    pq.write_table(pa.table({"image": [{"a": 1}]}), tmp_path / "list.parquet")
    with pytest.raises(
        InvalidDatasetError, match="column 'image' is of type struct<a: int64>, which is neither a path"
    ):
        list(ImageList(str(tmp_path / "list.parquet")).entries())


def test_a_list_that_is_missing(trained, tmp_path):
    with pytest.raises(InvalidDatasetError, match=r"missing\.txt: does not exist"):
        score(options(tmp_path / "missing.txt", tmp_path / "scored.csv"))


@pytest.mark.parametrize("kind", ["directory", pytest.param("prefix", marks=pytest.mark.slow), "list"])
def test_the_parts_together_are_the_whole(kind, trained, images, tmp_path, s3):
    places = {
        "directory": lambda: images / "val",
        "prefix": lambda: upload(s3, images / "val", "parts"),
        "list": lambda: listed_val(images, tmp_path),
    }
    image_dir = places[kind]()
    whole = scored_rows(image_dir, tmp_path / "whole.parquet", batch_size=1)  # the same batches, so the same bits
    for number in (1, 2, 3):
        output = tmp_path / "parts" / f"{number}.parquet"
        part = scored_rows(image_dir, output, batch_size=1, shard=f"{number}/3")
        assert len(part) < len(whole)
        expected = whole[whole["image"].isin(part["image"])]
        pd.testing.assert_frame_equal(part, expected.reset_index(drop=True), check_exact=True)
        if kind == "list":
            assert list(part["image"]) == list(whole["image"][number - 1 :: 3])
    together = pd.read_parquet(tmp_path / "parts").sort_values("image", ignore_index=True)
    pd.testing.assert_frame_equal(together, whole.sort_values("image", ignore_index=True), check_exact=True)


def listed_val(images, tmp_path):
    write_lines(tmp_path / "list.txt", sorted((images / "val").glob("*/*.jpg"), reverse=True))
    return tmp_path / "list.txt"


def test_images_that_are_added_move_no_other_to_another_part(trained, images, tmp_path):
    shutil.copytree(images / "val", tmp_path / "val")
    outputs = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    before = [set(scored_rows(tmp_path / "val", output, shard=f"{output.stem}/2")["image"]) for output in outputs]
    added = {str(write_picture(tmp_path / "val" / "007" / f"0{i}a.jpg", (200, 60, 40), i)) for i in range(4)}
    after = [set(scored_rows(tmp_path / "val", output, shard=f"{output.stem}/2")["image"]) for output in outputs]
    assert [names - added for names in after] == before
    assert added == (after[0] | after[1]) & added


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_part_without_images_is_a_file_without_rows(suffix, trained, images, tmp_path):
    write_lines(tmp_path / "list.txt", [images / "val" / "007" / "00.jpg"])
    output = tmp_path / f"scored{suffix}"
    result = score(options(tmp_path / "list.txt", output, shard="2/2"))
    assert (result.rows, len(result.head)) == (0, 0)
    if suffix == ".jsonl":
        assert output.read_text().strip() == ""
    else:
        read = pd.read_parquet(output) if suffix == ".parquet" else pd.read_csv(output)
        assert list(read.columns) == ["image", "Scored Labels", *PROBABILITIES, "error"]
        assert len(read) == 0
    assert sorted(os.listdir(tmp_path)) == ["list.txt", f"scored{suffix}"]


@pytest.mark.parametrize("shard", ["9/8", "0/8", "x", "1", "1/", "-1/2", "1/2/3", "1/0", " 1/2"])
def test_a_part_that_there_cannot_be(shard):
    with pytest.raises(InvalidOptionsError) as caught:
        options("images", "scored.csv", shard=shard)
    assert caught.value.message == f"shard is {shard!r}; it must be i/n with i from 1 to n, such as 2/8"


def test_the_reasons_of_unreadable_images_are_counted(trained, images, tmp_path):
    picture = (images / "val" / "007" / "00.jpg").read_bytes()
    (tmp_path / "cut").mkdir()
    for i in range(3):
        (tmp_path / "cut" / f"{i}.jpg").write_bytes(picture[: 300 + 20 * i])
    write_lines(tmp_path / "list.txt", [f"cut/{i}.jpg" for i in range(3)] + ["missing.jpg", "cut/0.jpg"])
    command = ["score", "--model-uri", MODEL, "--image-dir", tmp_path / "list.txt", "--min-confidence", 1]
    result = run_main(*command, "--output", tmp_path / "scored.csv")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1] == "5 of them could not be read; the column `error` says why"
    assert lines[2].startswith("  4  truncated or damaged (")
    assert lines[2].endswith(", such as cut/0.jpg")
    assert lines[3:] == ["  1  no such file, such as missing.jpg"]


def test_a_parquet_file_is_read_a_row_group_at_a_time(trained, images, tmp_path, monkeypatch):
    from mlflow_resnet.scoring.to_file import batch, parts

    monkeypatch.setattr(batch, "ROWS_PER_PART", 4)
    monkeypatch.setattr(parts, "ROWS_PER_PART", 4)
    whole = scored_rows(images / "val", tmp_path / "scored.parquet", batch_size=4)
    with pq.ParquetFile(tmp_path / "scored.parquet") as file:
        groups = [file.read_row_group(number).to_pandas() for number in range(file.num_row_groups)]
    assert [len(group) for group in groups] == [4, 4, 4]
    pd.testing.assert_frame_equal(pd.concat(groups, ignore_index=True), whole, check_exact=True)
