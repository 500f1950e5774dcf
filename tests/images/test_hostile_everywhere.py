"""Every name and file of `hostile` through every verb that takes any: one line, and nothing outside is touched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import TINY, flags, run_main
from hostile import GOOD, IMAGES, NAMES, SOURCES, write_images
from made_images import encoded, photo

from mlflow_resnet.errors import InvalidImageError, OutputError
from mlflow_resnet.images.decoding.decode import decode, read_region
from mlflow_resnet.images.index import ROOTS, SCHEMA, SOURCE, TRANSFER
from mlflow_resnet.io.file_names import leads_out, name_problem, path_below
from mlflow_resnet.tracking.training_record import TrainResult

ROOM = 512 * 2**20  # bytes of memory for each of `SOURCES`
OUTPUT = "out"
SKIP = ("--on-bad-image", "skip")
ONE_EPOCH = TINY | {"epochs": 1}
RATE_TEST = {
    name: value for name, value in TINY.items() if name not in ("learning_rate", "epochs", "checkpoint_minutes")
}


def write_index(folder: Path, names: list[str], source: str, labels: list[str] | None = None) -> Path:
    """An index as `convert` writes it, but for its names."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = labels or [name.partition("/")[0] for name in names]
    columns = [names, labels, [source] * len(names), *([[1] * len(names)] * 3), ["0" * 64] * len(names)]
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
    facts = {SOURCE: "x", TRANSFER: "reference"}
    pq.write_table(table.replace_schema_metadata(facts), folder / "index.parquet")
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below `folder` but for the outputs and what MLflow writes."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in (OUTPUT, "mlruns", "mlartifacts", "mlflow.db", "checkpoints")
    }


VERBS: dict[str, Callable[[Path, str], list[Any]]] = {
    "split": lambda data, model: [
        *("split", "--image-dir", data, "--train-dir", "out/a/b", "--val-dir", "out/a/c"),
        *("--fraction", 0.5, "--duplicates", "ignore"),
    ],
    "train": lambda data, model: ["train", "--train-dir", data, *SKIP, "--val-fraction", 0.5, *flags(ONE_EPOCH)],
    "find-lr": lambda data, model: ["find-lr", "--train-dir", data, *SKIP, "--val-fraction", 0.5, *flags(RATE_TEST)],
    "audit": lambda data, model: ["audit", "--train-dir", data],
    "convert": lambda data, model: ["convert", "--source", data, "--output-dir", "out/a/d"],
    "transform": lambda data, model: ["transform", "--image-dir", data, "--output-dir", "out/a/e"],
    "score": lambda data, model: ["score", "--model-uri", model, "--image-dir", data, "--output", "out/a/f.csv"],
    "evaluate": lambda data, model: ["evaluate", "--model-uri", model, "--image-dir", data, *SKIP],
    "explain": lambda data, model: ["explain", "--model-uri", model, "--image-dir", data, "--output-dir", "out/a/g"],
    "promote": lambda data, model: [
        *("promote", "--model-uri", "models:/colors/1", "--image-dir", data, *SKIP, "--measure-only", "true")
    ],
    "shadow": lambda data, model: ["shadow", "--champion", model, "--challenger", model, "--image-dir", data],
}


def scored(outside: Path) -> list[dict[str, str]]:
    with open(outside / "out/a/f.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_ends_well(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode in (0, 2, 3), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which everything stays as it is, while a verb runs in one below it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".bashrc").write_text("mine")
    (tmp_path / "good.png").write_bytes(GOOD)
    (tmp_path / OUTPUT).mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not Path("/tmp/mlflow-resnet-hostile").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_index_is_refused_by_every_verb(verb: str, outside: Path, trained: TrainResult) -> None:
    names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)]
    some = NAMES if verb == "split" else {kind: NAMES[kind] for kind in ("out of the folder", "our index")}
    for number, name in enumerate(some.values()):
        data = write_index(outside / f"data{number}", [*names, name], str(outside / "good.png"))
        before = snapshot(outside)
        done = run_main(*VERBS[verb](data, trained.model_uri))
        assert_ends_well(done)
        assert done.returncode == 2, (name, done.stdout)
        assert "is no index of ours" in done.stderr or verb in ("convert", "transform"), (name, done.stderr)
        assert snapshot(outside) == before, name


def test_what_an_index_refers_to_is_copied_only_if_it_is_an_image(outside: Path) -> None:
    secret = outside / "secret.png"
    secret.write_text("root:x:0:0")
    (outside / "link.png").symlink_to(secret)
    os.mkfifo(outside / "pipe.png")
    names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)]
    for number, (source, problem) in enumerate(
        {
            str(secret): "is not copied, because .*secret.png cannot be read: not an image",
            str(outside / "link.png"): "not an image",
            str(outside / "pipe.png"): "not a regular file",
            "/etc/passwd": "not an image",
            "/dev/zero": "not a regular file",
            "secret.png": "is no absolute path",
            str(outside / "home" / ".." / "secret.png"): "is no absolute path",
            "s3://bucket/1.png": "is no absolute path",
        }.items()
    ):
        data = write_index(outside / f"data{number}", names, source)
        before = snapshot(outside)
        done = run_main(*VERBS["split"](data, ""))
        assert_ends_well(done)
        assert re.search(problem, done.stderr), (source, done.stderr)
        assert snapshot(outside) == before
        assert not [path for path in (outside / OUTPUT).rglob("*") if path.is_file()]


def test_references_may_be_kept_to_some_folders(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)]
    data = write_index(outside / "data", names, str(outside / "good.png"))
    monkeypatch.setenv(ROOTS, str(outside / "home"))
    assert "is in none of the folders of MLFLOW_RESNET_REFERENCE_ROOTS" in run_main(*VERBS["split"](data, "")).stderr
    monkeypatch.setenv(ROOTS, os.pathsep.join([str(outside / "home"), str(outside)]))
    assert run_main(*VERBS["split"](data, "")).returncode == 0


@pytest.mark.parametrize(
    ("names", "labels", "problem"),
    [
        (["cat/1.png", "cat/1.png"], None, "comes twice"),
        (["cat/1.png", "dog/1.png"], ["cat", "cat"], "is not in a folder named after its label"),
        (["cat/1.png", "dog/1.png"], ["cat", "../.."], "is not in a folder named after its label"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    outside: Path, names: list[str], labels: list[str] | None, problem: str
) -> None:
    done = run_main(*VERBS["split"](write_index(outside / "data", names, str(outside / "good.png"), labels), ""))
    assert done.returncode == 2
    assert problem in done.stderr


def test_a_file_called_like_a_folder_is_one_line(outside: Path) -> None:
    names = ["cat/1.png", "cat/1.png/2.png", "dog/1.png", "dog/2.png"]
    done = run_main(*VERBS["split"](write_index(outside / "data", names, str(outside / "good.png")), ""))
    assert_ends_well(done)


def as_zip(name: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/good.png", GOOD)
        archive.writestr(name, GOOD)
    return "data.zip", buffer.getvalue()


def as_tar(name: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for each in ("cat/good.png", name):
            info = tarfile.TarInfo(each)
            info.size = len(GOOD)
            archive.addfile(info, io.BytesIO(GOOD))
    return "data.tar", buffer.getvalue()


def as_csv(name: str, label: str = "cat") -> tuple[str, bytes]:
    text = io.StringIO()
    csv.writer(text).writerows([["image", "label"], ["good.png", "cat"], [name, label]])
    return "data.csv", text.getvalue().encode()


def as_jsonl(name: str, label: str = "cat") -> tuple[str, bytes]:
    rows = [{"image": "good.png", "label": "cat"}, {"image": name, "label": label}]
    return "data.jsonl", "\n".join(map(json.dumps, rows)).encode()


def as_parquet(name: str, label: str = "cat") -> tuple[str, bytes]:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": ["good.png", name], "label": ["cat", label]}), buffer)
    return "data.parquet", buffer.getvalue()


def as_coco(name: str, label: str = "cat") -> tuple[str, bytes]:
    content = {
        "images": [{"id": 1, "file_name": "good.png"}, {"id": 2, "file_name": name}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": label}],
        "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2}],
    }
    return "data.json", json.dumps(content).encode()


@pytest.mark.parametrize("form", [as_zip, as_tar, as_csv, as_jsonl, as_parquet, as_coco])
def test_hostile_names_in_what_is_converted(form: Callable[..., tuple[str, bytes]], outside: Path) -> None:
    names = [name for name in NAMES.values() if name or form is not as_zip]  # which zipfile does not write
    for number, name in enumerate(names):
        for arguments in [(name,)] if form in (as_zip, as_tar) else [(name,), ("good.png", name)]:
            file, content = form(*arguments)
            (outside / file).write_bytes(content)
            before = snapshot(outside)
            done = run_main("convert", "--source", file, "--output-dir", f"out/{number}")
            assert_ends_well(done)
            assert snapshot(outside) == before, arguments
            assert not [path for path in (outside / OUTPUT).rglob("*") if path.suffix == ".partial"], arguments
    assert not (outside / "home" / "1.png").exists()


CONVERT = f"""
import json, resource, signal, sys
from pathlib import Path
import mlflow_resnet.cli, pandas, pyarrow.parquet, tarfile, zipfile, bz2, gzip
from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.images.conversion.update import convert_source
from mlflow_resnet.options.convert import ConvertOptions

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {ROOM},) * 2)
found = {{}}
for path in sorted(Path("sources").iterdir()):
    print(path.name, file=sys.stderr, flush=True)
    signal.alarm(60)
    try:
        options = ConvertOptions(source=path, output_dir=Path("out", path.name), num_workers=2)
        found[path.name] = str(convert_source(options, options.output_dir).images)
    except MlflowResnetError as error:
        found[path.name] = error.message
    signal.alarm(0)
print(json.dumps(found))
"""


@pytest.mark.process
def test_hostile_sources_cost_neither_memory_nor_time(outside: Path) -> None:
    (outside / "sources").mkdir()
    for name, make in SOURCES.items():
        (outside / "sources" / name).write_bytes(make())
    before = snapshot(outside)
    done = subprocess.run([sys.executable, "-c", CONVERT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert snapshot(outside) == before
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == SOURCES.keys()
    assert not [text for text in found.values() if text.isdigit() or "\n" in text or len(text) > 600], found
    for name in ("a long name.tar.gz", "a pax header.tar.gz", "a global header.tgz", "a sparse map.tar.gz"):
        assert "its headers are over the limits" in found[name]
    assert "its members overlap" in found["overlapping.zip"] or "Overlapped" in found["overlapping.zip"]


@pytest.mark.parametrize("kind", IMAGES)
def test_a_hostile_image_is_refused_before_it_costs_anything(kind: str) -> None:
    make, problem = IMAGES[kind]
    content = make()
    for read in (decode, lambda content: read_region(content, lambda width, height: (0, 0, width, height), (8, 8))):
        with pytest.raises(InvalidImageError, match=problem):
            read(content)


@pytest.mark.parametrize("verb", VERBS)
def test_hostile_images_are_rows_or_one_line_in_every_verb(verb: str, outside: Path, trained: TrainResult) -> None:
    data = write_images(outside / "data")
    before = snapshot(outside)
    done = run_main(*VERBS[verb](data, trained.model_uri))
    assert_ends_well(done)
    assert done.returncode == 0, done.stderr
    assert snapshot(outside) == before
    if verb == "score":
        rows = scored(outside)
        assert sum(row["error"] != "" for row in rows) == len(IMAGES)
        assert len(rows) == len(IMAGES) + 16


def test_hostile_images_are_rows_of_a_prediction(tmp_path: Path, trained: TrainResult) -> None:
    import mlflow

    data = write_images(tmp_path / "data")
    rows = mlflow.pyfunc.load_model(trained.model_uri).predict(str(data))
    assert int((rows.error.fillna("") != "").sum()) == len(IMAGES)


@pytest.mark.parametrize("kind", [name for name in SOURCES if name.endswith((".csv", ".parquet"))])
def test_hostile_tables_as_lists_to_score(kind: str, outside: Path, trained: TrainResult) -> None:
    (outside / kind).write_bytes(SOURCES[kind]())
    done = run_main(*VERBS["score"](outside / kind, trained.model_uri))
    assert_ends_well(done)
    assert done.returncode == 2


def test_hostile_names_in_a_list_to_score_are_rows(outside: Path, trained: TrainResult) -> None:
    names = [name for name in NAMES.values() if "\n" not in name]
    (outside / "list.txt").write_text("\n".join(["good.png", *names, "/etc/passwd"]))
    before = snapshot(outside)
    done = run_main(*VERBS["score"](outside / "list.txt", trained.model_uri))
    assert done.returncode == 0, done.stderr
    assert snapshot(outside) == before
    rows = scored(outside)
    assert sum(row["error"] == "" for row in rows) == 1


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_no_hostile_name_becomes_a_path(tmp_path: Path, name: str) -> None:
    assert name_problem(name)
    with pytest.raises(OutputError, match="refused to write"):
        path_below(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["cat/1.png", "cat/deep/a b.png", "1.png", "grün/ß.png", "cat/x.index.parquet.png", "cat/index.parquet.png"]
)
def test_usual_names_are_paths(tmp_path: Path, name: str) -> None:
    assert path_below(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["C:/1.png", "cat\\..\\..\\1.png", "cat/nul.png", "cat/a:b.png", "cat./1.png", "a/.. /1"]
)
def test_names_that_only_windows_takes_for_something_else(name: str) -> None:
    assert leads_out(name, windows=True)
    assert not leads_out(name, windows=False)


def test_no_link_is_followed_when_something_is_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "cat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="leads through a link"):
        path_below(tmp_path / "out", "cat/1.png")


def test_pictures_of_cameras_are_no_bombs() -> None:
    picture = photo(900, 700)
    progressive = encoded(picture, "JPEG", progressive=True, quality=95)
    film = progressive + b"\xff\xda" * 100_000  # a telephone's moving photo: what follows is not decoded
    profile = encoded(picture, "JPEG", icc_profile=bytes(3_000_000))
    several = encoded(picture, "MPO", save_all=True, append_images=[picture] * 3)
    tiled = encoded(picture, "TIFF", compression="jpeg")
    for content in (progressive, film, profile, several, tiled):
        assert decode(content).size == (900, 700)
