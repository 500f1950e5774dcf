"""Folders that something damaged, or somebody made: whatever they hold, a command ends with one line, or repairs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import run_main, write_picture

from mlflow_resnet.errors import CheckpointError, InvalidModelError, MlflowResnetError, OutputError
from mlflow_resnet.flavor import load_model, load_predictor, save_model
from mlflow_resnet.images.audit.image_facts import FactsJournal
from mlflow_resnet.images.cache import pack_images
from mlflow_resnet.images.conversion.changes import JOURNAL_NAME, Journal
from mlflow_resnet.images.index import IndexRow
from mlflow_resnet.io.notes import NOTE_KINDS, Notes
from mlflow_resnet.io.untrusted import MOST_JSON
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import build_network
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.model.storage import EXPORT_FILE, read_export
from mlflow_resnet.runs.mirror import NOTES, Mirror
from mlflow_resnet.scoring.to_file.parts import Parts
from mlflow_resnet.tracking.pieces import PIECE_KINDS, Point
from mlflow_resnet.training.checkpoints import SUMS_FILE, CheckpointFolder, State


def make_large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2 * MOST_JSON)  # a hole: takes no space on the disk


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


# What becomes of a file that should hold a JSON object.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": write(b""),
    "a list": write(b"[]"),
    "a number": write(b"1"),
    "null": write(b"null"),
    "text": write(b'"x"'),
    "half": write(b'{"run_id": "1", '),
    "no UTF-8": write(b'{"run_id": "\xff\xfe"}'),
    "deep lists": write(b"[" * 100_000),
    "deep objects": write(b'{"a":' * 100_000),
    "NaN": write(b"NaN"),
    "a long number": write(b'{"run_id": ' + b"9" * 5000 + b"}"),
    "zeros": write(bytes(100)),
    "large": make_large,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
}


def damage(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    DAMAGES[kind](path)


def one_line(error: MlflowResnetError) -> str:
    assert error.exit_code == 2
    assert "\n" not in error.message
    assert len(error.message) < 600
    return error.message


def check_line(done) -> None:
    """A command said one line, and ended as after bad input."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("mlflow-resnet: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", DAMAGES)
def test_sync_of_a_folder_with_damaged_notes(tmp_path: Path, kind: str) -> None:
    damage(tmp_path / "training.json", kind)
    check_line(run_main("sync", tmp_path))


WRONG = {str: 5, int: "five", float: "x", bool: "yes"}


@pytest.mark.parametrize("name", NOTE_KINDS)
def test_notes_of_a_wrong_type_are_told(tmp_path: Path, name: str) -> None:
    wrong = WRONG.get(NOTE_KINDS[name], 7)
    (tmp_path / "training.json").write_text(json.dumps({name: wrong}))
    with pytest.raises(CheckpointError, match=rf"{name} is {wrong!r}; expected"):
        Notes(tmp_path / "training.json")


POINT = get_type_hints(Point)
POINTS = [
    dict.fromkeys(POINT) | {"values": {"loss": 1}, "step": 1, "time": 1, "dataset": ["a", "b"], "of_model": False}
]
GOOD = {str: "x", int: 1, bool: True, dict[str, str]: {"a": "b"}, list[str]: [], list[Point]: POINTS}
FIELDS = {
    name: {key: kind for key, kind in get_type_hints(piece).items() if key != "id"}
    for name, piece in PIECE_KINDS.items()
}


def piece(kind: str) -> dict[str, object]:
    facts = {name: POINTS if name == "points" else GOOD[type_] for name, type_ in FIELDS[kind].items()}
    return facts | {"kind": kind, "id": "1"}


def place(folder: Path, facts: object, name: str = "000001") -> Path:
    """A folder of a training that was not delivered, with one piece."""
    (folder / "training.json").write_text('{"run_id": "1"}')
    (folder / "outbox" / name / "files").mkdir(parents=True)
    (folder / "outbox" / name / "piece.json").write_text(json.dumps(facts))
    return folder / "outbox" / name


def bad_pieces() -> dict[str, object]:
    found: dict[str, object] = {"of no kind": {"id": "1"}, "of a new kind": {"kind": "x", "id": "1"}}
    found |= {"of a list as kind": {"kind": [], "id": "1"}, "without id": {"kind": "model"}}
    for kind in FIELDS:
        for name in FIELDS[kind]:
            found[f"{kind} without {name}"] = {key: value for key, value in piece(kind).items() if key != name}
            found[f"{kind} with a wrong {name}"] = piece(kind) | {name: 3.5}
    for name in POINT:
        found[f"a point without {name}"] = piece("metrics") | {
            "points": [{k: v for k, v in POINTS[0].items() if k != name}]
        }
        found[f"a point with a wrong {name}"] = piece("metrics") | {"points": [POINTS[0] | {name: [3]}]}
    for folder in ("../../escape", "/etc", "a/../../b"):
        found[f"files for {folder}"] = piece("files") | {"folder": folder}
    return found


BAD_PIECES = bad_pieces()


@pytest.mark.parametrize("name", BAD_PIECES)
def test_sync_of_a_piece_that_no_training_wrote(workdir: Path, name: str) -> None:
    place(workdir, BAD_PIECES[name])
    done = run_main("sync", workdir)
    check_line(done)
    assert "outbox/000001: is damaged" in done.stderr


@pytest.mark.parametrize("kind", DAMAGES)
def test_sync_of_a_damaged_piece(workdir: Path, kind: str) -> None:
    damage(place(workdir, piece("tags")) / "piece.json", kind)
    check_line(run_main("sync", workdir))


@pytest.mark.parametrize(
    "kind", ["a link", "a link to nothing", "a pipe", "a link to a folder", "the piece", "its files"]
)
def test_sync_sends_no_file_from_elsewhere(workdir: Path, kind: str) -> None:
    folder = place(workdir, piece("files") | {"folder": "stolen"})
    if kind in DAMAGES:
        DAMAGES[kind](folder / "files" / "secret.txt")
    elif kind == "a link to a folder":
        (folder / "files" / "secrets").symlink_to("/etc")
    else:
        what = folder if kind == "the piece" else folder / "files"
        what.rename(workdir / "elsewhere")
        what.symlink_to(workdir / "elsewhere")
    done = run_main("sync", workdir)
    check_line(done)
    assert "a link, device or pipe" in done.stderr


def test_what_is_no_piece_in_an_outbox_is_no_concern(workdir: Path) -> None:
    place(workdir, piece("model_failed"), "1x")
    (workdir / "outbox" / "²").mkdir()
    (workdir / "outbox" / "0000009x").touch()
    done = run_main("sync", workdir)
    assert done.returncode == 0, done.stderr


def test_an_outbox_that_leads_elsewhere_removes_nothing_there(workdir: Path) -> None:
    (workdir / "home" / ".ssh").mkdir(parents=True)
    (workdir / "training.json").write_text("{}")
    (workdir / "outbox").symlink_to(workdir / "home")
    check_line(run_main("sync", workdir))
    (workdir / "outbox").unlink()
    (workdir / "home").rename(workdir / "outbox")
    (workdir / "outbox" / ".000003.partial-0a1b2c3d").mkdir()
    assert run_main("sync", workdir).returncode == 0
    assert [path.name for path in (workdir / "outbox").iterdir()] == [".ssh"]


STATE = State({"network": {"weight": torch.ones(3)}}, {"epoch": 1})


@pytest.mark.parametrize("name", ["facts.json", SUMS_FILE, "network.safetensors"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_left_for_the_one_before(tmp_path: Path, name: str, kind: str) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(STATE)
    damage(folder.locate(folder.save(STATE)) / name, kind)
    assert folder.load().facts == STATE.facts
    folder.check_room(1, 2)
    damage(folder.locate(1) / name, kind)
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints is whole"):
        folder.load()


def test_strange_names_among_checkpoints_and_in_their_sums(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(STATE)
    for name in ("²", "1x", "9" * 5000, "12"):
        if len(name) < 256:
            (tmp_path / name).mkdir()
    (tmp_path / "000007").touch()
    (tmp_path / "000008").symlink_to("000001")
    assert folder.numbers() == [1]
    with open(tmp_path / "000001" / SUMS_FILE, "a") as sums:
        sums.write(f"{'0' * 64}  ../../../../etc/passwd\n")
    with pytest.raises(CheckpointError, match="none of its 1"):
        folder.load()


class OddStore:
    """A place for copies that answers, but with something else than what was put there."""

    uri = "s3://bucket/copies"

    def __init__(self, names: list[str], spoil: Callable[[Path], object]) -> None:
        self.found, self.spoil = names, spoil

    def names(self) -> list[str]:
        return self.found

    def fetch(self, name: str, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.spoil(path)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_mirror_with_damaged_notes_or_copies(tmp_path: Path, kind: str) -> None:
    names = [NOTES, f"000003/{SUMS_FILE}", "000003/../../x", "000003/", f"²/{SUMS_FILE}", f"{'9' * 5000}/{SUMS_FILE}"]
    folder = CheckpointFolder(tmp_path / "here")
    with pytest.raises(CheckpointError) as caught:
        Mirror(OddStore(names, DAMAGES[kind]), folder, Notes()).fetch_newer()  # type: ignore[arg-type]
    assert "s3://bucket/copies: its training.json is damaged" in one_line(caught.value) or "reached" in str(
        caught.value
    )
    with pytest.raises(CheckpointError, match="none of its 1 copies"):
        Mirror(OddStore(names[1:], DAMAGES[kind]), folder, Notes()).fetch_newer()  # type: ignore[arg-type]
    assert not list(tmp_path.glob("x"))


TABLE = pa.table({"image": ["a"], "Scored Probabilities_x": [0.5], "error": [""]})


@pytest.mark.parametrize(
    "kind", ["empty", "zeros", "half", "of another number", "odd facts", "odd progress", "a folder"]
)
def test_rows_of_a_damaged_part_are_scored_again(tmp_path: Path, kind: str) -> None:
    for _ in range(2):
        Parts(tmp_path, {"model": "1"}).add(TABLE, 0, 0, "a")
    path = tmp_path / "00000002.arrow"
    content = path.read_bytes()
    path.unlink()
    if kind in ("odd facts", "odd progress"):
        facts = {"call": {"model": "1"} if kind == "odd progress" else [], "progress": {"parts": 2, "rows": "two"}}
        with pa.ipc.new_file(str(path), TABLE.schema.with_metadata({"mlflow_resnet": json.dumps(facts)})) as writer:
            writer.write_table(TABLE)
    elif kind == "a folder":
        path.mkdir()
    else:
        new = {"half": content[: len(content) // 2], "of another number": (tmp_path / "00000001.arrow").read_bytes()}
        path.write_bytes(new.get(kind, bytes(100 if kind == "zeros" else 0)))
    if kind == "a folder":
        with pytest.raises(OutputError, match="cannot be written") as caught:
            Parts(tmp_path, {"model": "1"})
        one_line(caught.value)
    else:
        assert Parts(tmp_path, {"model": "1"}).progress.rows == 1


def test_a_part_that_is_damaged_while_others_are_scored(tmp_path: Path) -> None:
    parts = Parts(tmp_path, {})
    parts.add(TABLE, 0, 0, "a")
    (tmp_path / "00000001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(OutputError, match="00000001.arrow: is damaged") as caught:
        list(parts.tables())
    one_line(caught.value)


LINES = [
    b"",
    b"[]",
    b"[[], {}]",
    b'[["a", 1, 2], {"problem": 5}]',
    b'[["a", 1, 2], {"no such": 5}]',
    b"{}",
    b'{"name": 5}',
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    bytes(50),
    b"9" * 5000,
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:20]))
def test_a_line_of_a_journal_that_means_nothing(tmp_path: Path, line: bytes) -> None:
    row = IndexRow("a.png", "", "source", 1, 1, 1, "0")
    with Journal(tmp_path) as journal:
        journal.add(row)
    with open(tmp_path / JOURNAL_NAME, "ab") as file:
        file.write(line + b"\n")
    assert list(Journal(tmp_path).rows.values()) == [row]
    facts = FactsJournal(tmp_path, "photos")
    facts.path.parent.mkdir()
    facts.path.write_bytes(line + b"\n")
    with facts:
        assert facts.known == {}


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link"])
def test_a_journal_that_is_no_file(tmp_path: Path, kind: str) -> None:
    DAMAGES[kind](tmp_path / JOURNAL_NAME)
    with pytest.raises(OutputError, match="is damaged") as caught:
        Journal(tmp_path)
    one_line(caught.value)


@pytest.mark.parametrize("sizes", [(2, 3), (-1, -1), (0, 0), (1, 2, 1, 2)])
def test_packed_images_of_other_sizes_or_another_number_are_packed_again(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    schema = pa.schema([("height", pa.int32()), ("width", pa.int32()), ("pixels", pa.large_binary())])
    count = len(sizes) // 2
    columns = [pa.array(sizes[::2], pa.int32()), pa.array(sizes[1::2], pa.int32())]
    batch = pa.record_batch([*columns, pa.array([bytes(6)] * count, pa.large_binary())], schema=schema)
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(batch)
    picture = np.full((1, 2, 3), 7, np.uint8)
    images = pack_images(tmp_path / "x.arrow", 1, lambda: (each for each in [picture]), lambda: 6)
    assert np.array_equal(images.load(0), picture)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    network = build_network("resnet18", 2).eval()
    save_model(ImageClassifier("resnet18", ("a", "b"), Preprocessing(32, 32), network), folder)
    return folder


@pytest.fixture
def linked(model: Path, tmp_path: Path) -> Path:
    """The model, whose small files may be damaged."""
    (tmp_path / "model" / "data").mkdir(parents=True)
    for name in ("MLmodel", "data/classifier.json"):
        (tmp_path / "model" / name).write_bytes((model / name).read_bytes())
    (tmp_path / "model" / "data" / "model.safetensors").symlink_to(model / "data" / "model.safetensors")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["MLmodel", "data/classifier.json", "data/model.safetensors"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_model_says_so(linked: Path, name: str, kind: str) -> None:
    if name != "data/classifier.json" and kind in ("a pipe", "large"):
        pytest.skip("MLflow and safetensors read it")
    damage(linked / name, kind)
    for use in (load_model, load_predictor):
        with pytest.raises(InvalidModelError) as caught:
            use(str(linked))
        one_line(caught.value)


ODD_FACTS = {
    "classes": [3, ["a", 3], "ab", None, ["a", "\ud800"]],
    "preprocessing": [[], {"crop_size": "x"}, {}],
    "temperature": ["hot", None, []],
    "precision_checks": [[], {"bf16": 3}, {"bf16": {}}],
    "architecture": [5, "vgg", None],
    "weights_sha256": [5, None],
    "format_version": [[], "2", 99, None],
}


@pytest.mark.parametrize("name", ODD_FACTS)
def test_a_description_of_other_types_says_so(linked: Path, name: str) -> None:
    path = linked / "data" / "classifier.json"
    facts = json.loads(path.read_text())
    for value in ODD_FACTS[name]:
        path.write_text(json.dumps(facts | {name: value}))
        with pytest.raises(InvalidModelError) as caught:
            load_model(str(linked))
        one_line(caught.value)


@pytest.mark.parametrize("flavors", ["[]", "resnet", "{resnet: 3}", "{resnet: {}, python_function: {config: [1]}}"])
def test_flavors_of_other_types_say_so(linked: Path, flavors: str) -> None:
    (linked / "MLmodel").write_text(f"flavors: {flavors}\n")
    with pytest.raises(InvalidModelError) as caught:
        load_predictor(str(linked))
    one_line(caught.value)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_export_says_so(tmp_path: Path, kind: str) -> None:
    damage(tmp_path / EXPORT_FILE, kind)
    with pytest.raises(InvalidModelError) as caught:
        read_export(tmp_path)
    one_line(caught.value)


def test_a_conversion_goes_on_past_a_damaged_journal(tmp_path: Path) -> None:
    write_picture(tmp_path / "photos" / "a.png", (1, 2, 3), 1)
    out = tmp_path / "out"
    done = run_main("convert", "--source", tmp_path / "photos", "--output-dir", out)
    assert done.returncode == 0
    (out / JOURNAL_NAME).write_bytes(b"[" * 100_000)
    done = run_main("convert", "--source", tmp_path / "photos", "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
