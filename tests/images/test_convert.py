from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import convert_source, run_main, start_cli, upload
from made_images import encoded, photo
from PIL import Image
from proxy import faulty

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, OutputError, StoreUnreachableError
from mlflow_resnet.images.conversion import archives
from mlflow_resnet.images.conversion import update as converting
from mlflow_resnet.images.decoding import decode
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.index import read_index
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import directory_sources
from mlflow_resnet.io.file_names import quote_name

GOOD = encoded(photo(4, 3), "PNG")
Files = dict[str, bytes]
TWO_CLASSES: Files = {"cat/1.png": GOOD, "cat/deep/2.png": GOOD, "dog/a b.png": GOOD}


def as_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, files: Files, *links: tarfile.TarInfo) -> Path:
    with tarfile.open(path, MODES.get(path.suffix, "w")) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for link in links:
            archive.addfile(link)
    return path


def tree(path: Path) -> set[str]:
    """Names of the files below `path`, without the index."""
    files = {str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file()}
    return files - {"index.parquet", "left_out.csv"}


MODES = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2"}
MAKERS = {
    "data": as_folder,
    "data.zip": as_zip,
    "DATA.ZIP": as_zip,
    "data.tar": as_tar,
    "data.tar.gz": as_tar,
    "data.tgz": as_tar,
    "data.tar.bz2": as_tar,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("wrap", ["", "wrapper/", "a/a/"])
def test_makes_an_image_directory_from_a_folder_or_archive(tmp_path: Path, kind: str, wrap: str) -> None:
    files = {f"{wrap}{name}": content for name, content in TWO_CLASSES.items()}
    files |= {"__MACOSX/cat/._1.png": GOOD, f"{wrap}cat/.DS_Store": b"x", f"{wrap}readme.txt": b"x"}
    result = convert_source(MAKERS[kind](tmp_path / kind, files), tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert (tmp_path / "out" / "cat" / "1.png").read_bytes() == GOOD
    assert (result.images, result.classes, result.unreadable) == (3, ("cat", "dog"), {})
    assert result.ignored == Ignored(hidden=2, not_images=1)


@pytest.mark.parametrize("kind", ["data", "data.zip", "data.tgz"])
def test_unreadable_images_are_left_out_and_listed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = TWO_CLASSES | {"cat/cut.png": GOOD[:-30], "eel/empty.jpg": b"", "cat/big.png": bytes(5000)}
    source = MAKERS[kind](tmp_path / kind, files)
    for module in (archives, converting, decode):
        monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 4000)
    result = convert_source(source, tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert result.classes == ("cat", "dog", "eel")
    reasons = {name[-11:].lstrip("!/"): reason.split(" (")[0] for name, reason in result.unreadable.items()}
    assert reasons == {
        "cat/cut.png": "truncated or damaged",
        "l/empty.jpg"[-11:]: "empty file",
        "cat/big.png": "over the limit of 0 MiB for one image",
    }


@pytest.mark.parametrize("kind", ["data", "data.zip", "data.tar"])
def test_a_flat_folder_stays_flat(tmp_path: Path, kind: str) -> None:
    result = convert_source(MAKERS[kind](tmp_path / kind, {"1.png": GOOD, "2.png": GOOD}), tmp_path / "out")
    assert tree(tmp_path / "out") == {"1.png", "2.png"}
    assert (result.images, result.classes) == (2, ())


def test_a_single_class_keeps_its_name(tmp_path: Path) -> None:
    assert convert_source(as_folder(tmp_path / "data", {"cat/1.png": GOOD}), tmp_path / "out").classes == ("cat",)


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/tmp/evil.png", "..\\evil.png", "\\evil.png"])
@pytest.mark.parametrize("kind", ["data.zip", "data.tar"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    source = MAKERS[kind](tmp_path / "in" / kind, TWO_CLASSES | {name: GOOD})
    with pytest.raises(InvalidDatasetError, match="leads out of the archive"):
        convert_source(source, tmp_path / "in" / "out")
    assert tree(tmp_path) == {f"in/{kind}"}


def test_links_and_devices_in_archives_are_not_made(tmp_path: Path) -> None:
    links = []
    for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("f.png", tarfile.FIFOTYPE)):
        link = tarfile.TarInfo(f"cat/{name}")
        link.type, link.linkname = kind, "/etc/hostname"
        links.append(link)
    result = convert_source(as_tar(tmp_path / "data.tar", TWO_CLASSES, *links), tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert result.ignored == Ignored(archived_links=2, not_images=1)

    source = as_zip(tmp_path / "data.zip", TWO_CLASSES)
    with zipfile.ZipFile(source, "a") as archive:
        info = zipfile.ZipInfo("cat/s.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/hostname")
    assert convert_source(source, tmp_path / "out2").ignored == Ignored(archived_links=1)


def test_names_that_clash_get_a_number(tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("cat/1.png", "cat/1.png", "cat/1.PNG", "dog/1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(GOOD)
            archive.addfile(member, io.BytesIO(GOOD))
    assert convert_source(path, tmp_path / "out").images == 4
    assert tree(tmp_path / "out") == {"cat/1.png", "cat/1-2.png", "cat/1-3.PNG", "dog/1.png"}


def test_a_file_named_like_a_folder_is_one_sentence(tmp_path: Path) -> None:
    source = as_zip(tmp_path / "data.zip", {"cat/x.png": GOOD, "cat/x.png/1.png": GOOD})
    with pytest.raises(OutputError, match="cannot be written"):
        convert_source(source, tmp_path / "out")
    assert tree(tmp_path) == {"data.zip"}


@pytest.mark.parametrize("kind", ["data.zip", "data.tar", "data.tar.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.8])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    big = encoded(Image.fromarray(noise), "PNG")
    source = MAKERS[kind](tmp_path / kind, {f"cat/{index}.png": big for index in range(4)})
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InvalidDatasetError, match="damaged or unreadable archive") as caught:
        convert_source(source, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert tree(tmp_path) == {kind}


def test_a_tar_cut_between_two_members_is_damaged(tmp_path: Path) -> None:
    source = as_tar(tmp_path / "data.tar", TWO_CLASSES)
    source.write_bytes(source.read_bytes()[: 2 * 512])  # the first header and its content
    with pytest.raises(InvalidDatasetError, match="unexpected end of data"):
        convert_source(source, tmp_path / "out")


def test_an_archive_over_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("data.zip", "data.tar"):
        source = MAKERS[kind](tmp_path / kind, TWO_CLASSES | {"zeros.txt": bytes(10**6)})
        for limit, value, reason in (
            ("MAX_ARCHIVE_BYTES", 10**6, "unpacks to more than"),
            ("MAX_MEMBERS", 3, "over the limit of 3 files"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(archives, limit, value)
                with pytest.raises(InvalidDatasetError, match=reason):
                    convert_source(source, tmp_path / "out")


def test_says_why_a_source_cannot_be_used(tmp_path: Path) -> None:
    as_folder(tmp_path, {"data.rar": b"Rar!", "texts/a.txt": b"x", "bad/cat/1.png": b"x"})
    for name, reason in {
        "data.rar": "not a directory, nor a file of a known kind .*.zip, .tar, .tar.gz, .tgz",
        "missing.zip": "does not exist",
        "texts": "no images .ignored 1 without.*Supported extensions: .bmp",
        "bad": "none of its 1 images can be read: .*/bad/cat/1.png .not an image",
    }.items():
        with pytest.raises(InvalidDatasetError, match=f"{name}: {reason}"):
            convert_source(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_with_something_in_it_is_kept(tmp_path: Path) -> None:
    as_folder(tmp_path, {"data/cat/1.png": GOOD, "out/mine": b"x"})
    with pytest.raises(OutputError, match="out: is not empty"):
        convert_source(tmp_path / "data", tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine"}


def test_the_index_tells_of_every_image(tmp_path: Path) -> None:
    source = as_folder(tmp_path / "data", TWO_CLASSES | {"cat/bad.png": b"x"})
    convert_source(source, tmp_path / "out")
    rows, facts = read_index(tmp_path / "out")
    assert [(row.name, row.label) for row in rows] == [
        ("cat/1.png", "cat"),
        ("cat/deep/2.png", "cat"),
        ("dog/a b.png", "dog"),
    ]
    first = rows[0]
    assert (first.source, first.bytes, first.width, first.height) == (str(source / "cat/1.png"), len(GOOD), 4, 3)
    assert first.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert facts["mlflow_resnet.source"] == str(source)
    left_out = (tmp_path / "out" / "left_out.csv").read_text()
    assert left_out.startswith("source,reason\n")
    assert 'cat/bad.png,"not an image' in left_out
    assert list_labeled(tmp_path / "out").ignored == Ignored()


def test_a_second_call_adds_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = as_folder(tmp_path / "data", TWO_CLASSES)
    convert_source(source, tmp_path / "out")
    as_folder(source, {"cat/3.png": GOOD, "eel/4.png": GOOD})
    decoded = []
    monkeypatch.setattr(converting, "decode", lambda content: decoded.append(1) or decode.decode(content))
    result = convert_source(source, tmp_path / "out")
    assert (result.images, result.added, len(decoded)) == (5, 2, 2)
    assert tree(tmp_path / "out") == {*TWO_CLASSES, "cat/3.png", "eel/4.png"}
    assert len(read_index(tmp_path / "out")[0]) == 5
    again = convert_source(source, tmp_path / "out")
    assert (again.images, again.added) == (5, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_a_second_call_takes_what_was_changed(tmp_path: Path) -> None:
    source = as_folder(tmp_path / "data", TWO_CLASSES)
    convert_source(source, tmp_path / "out", transfer="hardlink")
    other = encoded(photo(8, 8), "PNG")
    (source / "cat/1.png").unlink()
    (source / "cat/1.png").write_bytes(other)
    result = convert_source(source, tmp_path / "out", transfer="hardlink")
    assert (result.images, result.added) == (3, 0)
    assert (tmp_path / "out" / "cat" / "1.png").read_bytes() == other
    assert read_index(tmp_path / "out")[0][0].width == 8


def test_what_was_converted_before_s3_went_away_is_kept(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = upload(s3, as_folder(tmp_path / "data", {f"cat/{n}.png": GOOD for n in range(40)}), "to-lose")
    monkeypatch.setattr("mlflow_resnet.io.s3.access.PATIENCE_SECONDS", 0.5)
    asked: list[str] = []

    def fail_late(method: str, path: str) -> str:
        asked.append(path)
        return "503" if len(asked) > 25 else ""

    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], fail_late) as server, monkeypatch.context() as patch:
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with pytest.raises(StoreUnreachableError, match="too busy"):
            convert_source(uri, tmp_path / "out")
    result = convert_source(uri, tmp_path / "out")
    assert result.images == 40
    assert 0 < result.added < 40


@pytest.mark.parametrize("kind", ["data", "data.zip", "data.tar.gz"])
def test_a_call_that_was_interrupted_is_gone_on_with(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MAKERS[kind](
        tmp_path / kind, {f"wrapped/cat/{n}.png": GOOD for n in range(10)} | {"wrapped/dog/x.png": GOOD}
    )
    seen = []

    def interrupt() -> None:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_source(source, tmp_path / "out", on_image=interrupt)
    assert not (tmp_path / "out").exists()
    decoded = []
    monkeypatch.setattr(converting, "decode", lambda content: decoded.append(1) or decode.decode(content))
    result = convert_source(source, tmp_path / "out")
    assert (result.images, result.added, len(decoded)) == (11, 7, 7)
    assert tree(tmp_path / "out") == {f"cat/{n}.png" for n in range(10)} | {"dog/x.png"}
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("sent", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_command_goes_on(workdir: Path, sent: signal.Signals) -> None:
    source = as_folder(workdir / "data", {f"cat/{n}.png": encoded(photo(900, 900), "PNG") for n in range(24)})
    command = ["convert", "--source", source, "--output-dir", workdir / "out", "--num-workers", 1]
    with start_cli(*command) as process:
        while len(list(workdir.glob(".out.*/cat/*"))) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(sent)
        process.communicate(timeout=60)
    assert not (workdir / "out").exists()
    result = run_main(*command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("24 images of 1 classes in")
    assert "by an earlier call" in result.stdout
    assert len(tree(workdir / "out")) == 24


def test_hard_links_take_no_space(tmp_path: Path) -> None:
    source = as_folder(tmp_path / "data", TWO_CLASSES)
    convert_source(source, tmp_path / "out", transfer="hardlink")
    for name in TWO_CLASSES:
        assert os.path.samefile(source / name, tmp_path / "out" / name)


def test_references_leave_the_images_where_they_are(tmp_path: Path) -> None:
    source = as_folder(tmp_path / "data", TWO_CLASSES)
    convert_source(source, tmp_path / "out", transfer="reference")
    assert os.listdir(tmp_path / "out") == ["index.parquet"]
    here, there = list_labeled(source), list_labeled(tmp_path / "out")
    assert (there.names, there.labels, there.classes) == (here.names, here.labels, here.classes)
    assert there.paths == here.paths
    found = [each.name for each in directory_sources(str(tmp_path / "out"), Counter())]
    assert sorted(found) == sorted(here.paths)


@pytest.mark.parametrize("transfer", ["hardlink", "reference"])
def test_what_is_in_an_archive_can_only_be_copied(tmp_path: Path, transfer: str) -> None:
    source = as_zip(tmp_path / "data.zip", TWO_CLASSES)
    with pytest.raises(InvalidOptionsError, match=f"transfer is '{transfer}', but .*data.zip!cat/1.png is no file"):
        convert_source(source, tmp_path / "out", transfer=transfer)
    assert tree(tmp_path) == {"data.zip"}


def as_csv(rows: list[dict[str, object]], path: Path) -> None:
    pd.DataFrame(rows).to_csv(path, index=False)


def as_parquet(rows: list[dict[str, object]], path: Path) -> None:
    pd.DataFrame(rows).to_parquet(path)


def as_jsonl(rows: list[dict[str, object]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


TABLES = {".csv": as_csv, ".parquet": as_parquet, ".jsonl": as_jsonl}


@pytest.mark.parametrize("suffix", TABLES)
def test_a_table_of_paths_and_labels(tmp_path: Path, suffix: str) -> None:
    as_folder(tmp_path, {"images/1.png": GOOD, "images/other/1.png": GOOD, "elsewhere/2": GOOD})
    rows: list[dict[str, object]] = [
        {"image_url": "images/1.png", "label": "007"},
        {"image_url": "images/other/1.png", "label": "007"},
        {"image_url": str(tmp_path / "elsewhere" / "2"), "label": "dog"},
        {"image_url": "images/missing.png", "label": "dog"},
        {"image_url": "https://example.com/3.png", "label": "dog"},
        {"image_url": "images/1.png", "label": ""},
    ]
    TABLES[suffix](rows, tmp_path / f"table{suffix}")
    result = convert_source(tmp_path / f"table{suffix}", tmp_path / "out")
    assert tree(tmp_path / "out") == {"007/1.png", "007/1-2.png", "dog/2.png"}
    assert {source.replace(str(tmp_path), ""): reason for source, reason in result.unreadable.items()} == {
        "/images/missing.png": "no such file",
        "https://example.com/3.png": "URLs are not opened; download the image, and name its path",
        "images/1.png": "no label",
    }


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("a/b", "has a / or \\"),
        ("a\\b", "has a / or \\"),
        ("..", "leads out of the directory"),
        (".hidden", "is hidden"),
        ("__MACOSX", "is hidden"),
        ("a" * 256, "is too long; a file's name has at most 255 bytes, with its folders 1024"),
    ],
)
def test_a_label_that_no_folder_can_have_costs_its_row(tmp_path: Path, label: str, problem: str) -> None:
    as_folder(tmp_path, {"1.png": GOOD, "2.png": GOOD})
    as_jsonl([{"path": "1.png", "label": label}, {"path": "2.png", "label": "cat"}], tmp_path / "table.jsonl")
    result = convert_source(tmp_path / "table.jsonl", tmp_path / "out")
    assert tree(tmp_path / "out") == {"cat/2.png"}
    assert result.unreadable == {"1.png": f"label {quote_name(label)} cannot be the name of a folder: it {problem}"}


def test_an_image_under_two_labels_is_left_out(tmp_path: Path) -> None:
    as_folder(tmp_path, {"1.png": GOOD, "2.png": GOOD})
    rows = [{"path": "1.png", "label": label} for label in ("cat", "dog", "cat")]
    as_jsonl([*rows, {"path": "2.png", "label": "cat"}], tmp_path / "table.jsonl")
    result = convert_source(tmp_path / "table.jsonl", tmp_path / "out")
    assert result.unreadable == {str(tmp_path / "1.png"): "2 labels (cat, dog)"}
    assert tree(tmp_path / "out") == {"cat/2.png"}


def test_the_lines_of_azures_automated_machine_learning_work_as_they_are(tmp_path: Path) -> None:
    as_folder(tmp_path / "fridge", {"can/1.jpg": GOOD, "milk/2.jpg": GOOD, "water/3.jpg": GOOD})
    store = "azureml://subscriptions/s/resourcegroups/r/workspaces/w/datastores/d/paths/"
    lines = [
        {"image_url": f"{store}can/1.jpg", "label": "can", "image_details": {"format": "jpg", "width": "4px"}},
        {"image_url": "AmlDatastore://image_directory/milk/2.jpg", "label": "milk"},
        {"image_url": f"{store}water/3.jpg", "label": ["water"]},
        {"image_url": f"{store}water/3.jpg", "label": ["water", "milk"]},
    ]
    as_jsonl(lines, tmp_path / "train.jsonl")
    result = convert_source(tmp_path / "train.jsonl", tmp_path / "out", image_root=str(tmp_path / "fridge"))
    assert tree(tmp_path / "out") == {"can/1.jpg", "milk/2.jpg", "water/3.jpg"}
    assert list(result.unreadable.values()) == ["several values in label: ['water', 'milk']"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    as_folder(tmp_path, {"1.png": GOOD})
    as_csv([{"photo": "1.png", "kind": "cat"}], tmp_path / "table.csv")
    with pytest.raises(InvalidDatasetError, match="no image column of the usual names .*but 'photo', 'kind'. Name it"):
        convert_source(tmp_path / "table.csv", tmp_path / "out")
    with pytest.raises(InvalidDatasetError, match="no label column 'sort', but 'photo', 'kind'"):
        convert_source(tmp_path / "table.csv", tmp_path / "out", image_column="photo", label_column="sort")
    convert_source(tmp_path / "table.csv", tmp_path / "out", image_column="photo", label_column="kind")
    assert tree(tmp_path / "out") == {"cat/1.png"}


def test_a_table_without_labels_gives_a_flat_directory(tmp_path: Path) -> None:
    as_folder(tmp_path, {"a/1.png": GOOD, "b/1.png": GOOD})
    as_csv([{"path": "a/1.png"}, {"path": "b/1.png"}], tmp_path / "table.csv")
    assert convert_source(tmp_path / "table.csv", tmp_path / "out").classes == ()
    assert tree(tmp_path / "out") == {"1.png", "1-2.png"}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", b"", "a table without rows"),
        ("t.csv", b"\xff\xfe\x00", "cannot be read as a table"),
        ("t.parquet", b"PAR1", "cannot be read as a table"),
        ("t.jsonl", b"{", "line 1 is no JSON"),
        ("t.jsonl", b"[1]", "line 1 is no JSON object"),
        ("t.json", b"{}", "no COCO annotations"),
        ("t.json", b"[" * 100_000, "no COCO annotations"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDatasetError, match=problem) as caught:
        convert_source(tmp_path / name, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert tree(tmp_path) == {name}


def test_coco_annotations_with_one_label_per_image(tmp_path: Path) -> None:
    as_folder(tmp_path, {f"{n}.png": GOOD for n in range(5)})
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 4} for n in range(5)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1]}
            for image, category in [(0, 7), (1, 9), (1, 9), (2, 7), (2, 9), (4, 7)]
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    result = convert_source(tmp_path / "annotations.json", tmp_path / "out")
    assert tree(tmp_path / "out") == {"cat/0.png", "dog/1.png", "cat/4.png"}
    assert result.unreadable == {"2.png": "2 categories (cat, dog)", "3.png": "no category"}


def test_from_s3(tmp_path: Path, s3: Any) -> None:
    as_folder(tmp_path / "local", {f"wrapped/{name}": content for name, content in TWO_CLASSES.items()})
    uri = upload(s3, tmp_path / "local", "to-convert")
    result = convert_source(uri, tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert read_index(tmp_path / "out")[0][0].source == f"{uri}/wrapped/cat/1.png"
    s3.upload_file(str(as_zip(tmp_path / "data.zip", TWO_CLASSES)), "bucket", "archives/data.zip")
    assert convert_source("s3://bucket/archives/data.zip", tmp_path / "out2").images == 3
    as_csv(
        [{"image": f"{uri}/wrapped/cat/1.png", "label": "x"}, {"image": f"{uri}/no", "label": "x"}], tmp_path / "t.csv"
    )
    result = convert_source(tmp_path / "t.csv", tmp_path / "out3")
    assert tree(tmp_path / "out3") == {"x/1.png"}
    assert list(result.unreadable.values()) == ["nothing there. Check the bucket and the prefix."]
