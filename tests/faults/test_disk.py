"""A disk that is full or read-only from the start, and one that fills up while a training writes to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Place, Row, cases, wait_for_iteration
from helpers import run_cli, wait_for
from tiers import needs

pytestmark = pytest.mark.faults

Make = Callable[..., Place]
Rows = Callable[[str, str], Row]
LEFT_OUT = "no checkpoint was written: "
AFTER_EVERY_STEP = 0.00001  # minutes; by the clock a fast machine may come to the end before the disk is full


@contextlib.contextmanager
def mounted(path: Path, *arguments: object) -> Iterator[Path]:
    """A folder that `mount ARGUMENTS` puts there; the test is skipped where that is not allowed."""
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *map(str, arguments), str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(needs("leave to mount a file system", "run it as root, in a container with --privileged"))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    with mounted(path, "-t", "tmpfs", "-o", f"size={size}", "none"):
        yield path


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[Path]:
    path.mkdir()
    with mounted(path, "--bind", path):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)
        yield path


def fill(folder: Path) -> Path:
    """A file that takes all that is free, and more when it is called again."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        while True:
            file.write(bytes(2**20 if os.statvfs(folder).f_bavail > 256 else 2**12))
    return path


def test_training_with_no_room_for_checkpoints(new_place: Make, row: Rows, tmp_path: Path) -> None:
    found = row("checkpoints on a disk of 4 MB", "exit 2 before training, one line with path and bytes")
    place = new_place("place")
    with small_disk(tmp_path / "disk", "4m") as disk:
        done = place.run(checkpoint_dir=disk / "saved")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert f"{disk / 'saved'}: " in last
    assert " bytes are free, but 3 checkpoints of 13" in last
    assert "Traceback" not in done.stderr
    assert place.runs() == []
    found.add("exit 2, no run")


def test_training_with_no_room_for_models_that_wait(new_place: Make, row: Rows, tmp_path: Path) -> None:
    found = row("--offline --epoch-models on a disk of 450 MB", "exit 2 before training, one line with path and bytes")
    place = new_place("place", offline=True, epoch_models=True)
    with small_disk(tmp_path / "disk", "450m") as disk:
        done = place.run(checkpoint_dir=disk / "saved")
    assert done.returncode == 2
    assert " and 179" in done.stderr.splitlines()[-1]
    assert " bytes of models need " in done.stderr.splitlines()[-1]
    found.add("exit 2")


def test_training_on_a_full_disk(new_place: Make, row: Rows, tmp_path: Path) -> None:
    found = row("checkpoints on a full disk", "exit 2 before training, one line with path and bytes")
    place = new_place("place")
    with small_disk(tmp_path / "disk", "1m") as disk:
        fill(disk)
        done = place.run(checkpoint_dir=disk / "saved")
    assert done.returncode == 2
    assert f"{disk / 'saved'}" in done.stderr.splitlines()[-1]
    assert "no space left on device; 0 bytes are free" in done.stderr.splitlines()[-1]
    assert place.runs() == []
    found.add("exit 2, no run")


def test_training_with_a_read_only_folder(new_place: Make, row: Rows, tmp_path: Path) -> None:
    found = row("checkpoints on a read-only disk", "exit 2 before training, one line")
    place = new_place("place")
    with read_only(tmp_path / "disk") as disk:
        done = place.run(checkpoint_dir=disk / "saved")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == f"mlflow-resnet: {disk / 'saved'}: cannot be written (read-only file system)"
    assert place.runs() == []
    found.add("exit 2, no run")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scoring_to_a_full_or_read_only_disk(
    suffix: str, unhurt_place: Make, fault_images: Path, row: Rows, tmp_path: Path
) -> None:
    found = row("score --output on a full or read-only disk", "exit 2, one line with path and bytes; no file")
    place = unhurt_place()
    (model,) = place.client().search_logged_models(["0"])

    def score(output: Path) -> str:
        arguments = ["--model-uri", model.model_uri, "--image-dir", fault_images / "val", "--output", output]
        done = run_cli("score", *arguments, cwd=place.path)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    with small_disk(tmp_path / "full", "1m") as disk:
        fill(disk)
        output = disk / f"scored.{suffix}"
        last = score(output)
        assert last.startswith(f"mlflow-resnet: {disk}/.scored.{suffix}.partial/")
        assert last.endswith(": cannot be written (no space left on device; 0 bytes are free)")
        assert [path.name for path in disk.iterdir()] == ["filler"]
    found.add("exit 2, no file")
    with read_only(tmp_path / "fixed") as disk:
        output = disk / f"scored.{suffix}"
        assert score(output) == f"mlflow-resnet: {output}: cannot be written (read-only file system)"
    found.add("exit 2, no file")


def filled(process: subprocess.Popen[str], place: Place, disk: Path) -> str:
    """Fills the disk when there are two checkpoints, until one is left out. Returns the line that says so."""
    wait_for_iteration(process, 2)
    wait_for(lambda: len(place.checkpoints()) == 2)
    assert process.stderr
    for line in process.stderr:
        fill(disk)
        if line.startswith(LEFT_OUT):
            return line
    raise AssertionError("every checkpoint found room")


@pytest.mark.parametrize("options", cases([{}, {"epoch_models": True}], 1), ids=str)
def test_the_disk_fills_up_in_training(
    options: dict[str, object], new_place: Make, unhurt_place: Make, row: Rows, tmp_path: Path
) -> None:
    found = row("the disk fills up in training", "one line for each checkpoint left out; goes on to the same weights")
    unhurt = unhurt_place(**options)
    with small_disk(tmp_path / "disk", "520m") as disk:
        place = new_place("place", checkpoint_dir=disk / "saved", checkpoint_minutes=AFTER_EVERY_STEP, **options)
        with place.started() as process:
            line = filled(process, place, disk)
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert line.startswith(f"{LEFT_OUT}{disk / 'saved'}: cannot be written (no space left on device; ")
        assert " bytes are free" in line
        assert "Traceback" not in said
        assert place.models() == unhurt.models()
        assert place.curve() == unhurt.curve()
        assert "this training is complete" in place.run().stderr
    found.add("told, exit 0, equal weights")


def test_the_last_checkpoint_survives_a_full_disk(
    new_place: Make, unhurt_place: Make, row: Rows, tmp_path: Path
) -> None:
    found = row("the disk fills up, then SIGKILL", "the last checkpoint is whole; goes on to the same weights")
    unhurt = unhurt_place()
    with small_disk(tmp_path / "disk", "420m") as disk:
        place = new_place("place", checkpoint_dir=disk / "saved", checkpoint_minutes=AFTER_EVERY_STEP)
        with place.started() as process:
            filled(process, place, disk)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert len(place.checkpoints()) == 2
        (disk / "filler").unlink()
        done = place.run()
        assert done.returncode == 0, done.stderr
        assert "going on from the checkpoint" in done.stderr
        assert "damaged" not in done.stderr
        assert place.weights() == unhurt.weights()
    found.add("equal weights")
