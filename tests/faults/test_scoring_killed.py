"""Scoring that is killed at any moment goes on, and ends with the file of a scoring that was never hurt."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from harness import Row, cases
from helpers import flags, upload, wait_for
from proxy import faulty

import mlflow_resnet
from mlflow_resnet.scoring.to_file.parts import facts_in

pytestmark = pytest.mark.faults

Rows = Callable[[str, str], Row]
Make = Callable[..., "Job"]
PROMISE = "the same command goes on; the file as if nothing had happened, no kept image scored again"
ROWS_PER_PART = 64  # a part every few tenths of a second
COMMAND = f"""
import os, shutil, signal
from mlflow_resnet.io import atomic as output
from mlflow_resnet.scoring.to_file import batch
from mlflow_resnet.scoring.to_file import parts
batch.ROWS_PER_PART = parts.ROWS_PER_PART = {ROWS_PER_PART}
def end(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
%s
from mlflow_resnet.cli import main
main()
"""


@dataclass
class Job:
    """A command that scores to a file in a folder of its own."""

    output: Path
    options: dict[str, Any]

    @contextlib.contextmanager
    def started(self, prepared: str = "", **env: str) -> Iterator[subprocess.Popen[str]]:
        """The command in a process that does not outlive the block."""
        command = [sys.executable, "-c", COMMAND % prepared, "score", *flags(self.options)]
        process = subprocess.Popen(command, env=os.environ | env, stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self, prepared: str = "", **env: str) -> tuple[int, str]:
        """Its exit code and what it says."""
        with self.started(prepared, **env) as process:
            said = process.communicate(timeout=300)[1]
        return process.returncode, said

    @property
    def folder(self) -> Path:
        """That of the rows that are kept."""
        return self.output.with_name(f".{self.output.name}.partial")

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.arrow"))

    def kept(self) -> int:
        """The number of rows that are safe."""
        parts = self.parts()
        return facts_in(parts[-1], int(parts[-1].stem)).progress.rows if parts else 0

    def goes_on(self, unhurt: Job, **env: str) -> int:
        """Lets it finish, and compares; returns how many rows it had already."""
        kept = self.kept()
        code, said = self.run(**env)
        assert code == 0, said
        assert not kept or f"going on after {kept} rows" in said
        if self.output.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(self.output), pd.read_parquet(unhurt.output), rtol=0, atol=0)
        else:
            assert self.output.read_bytes() == unhurt.output.read_bytes()
        assert os.listdir(self.output.parent) == [self.output.name]
        return kept


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with random weights, which no server is needed for."""
    path = tmp_path_factory.mktemp("model") / "saved"
    preprocessing = mlflow_resnet.Preprocessing(resize_size=36, crop_size=32)
    mlflow_resnet.save_model(mlflow_resnet.new_classifier("resnet18", ("a", "b", "ü"), preprocessing), path)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, fault_images: Path) -> Path:
    """1,500 pictures in 15 folders, and in each one that cannot be read."""
    root, found = tmp_path_factory.mktemp("many"), sorted(fault_images.rglob("*.jpg"))
    for number in range(1500):
        path = root / f"{number % 15}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(found[number % len(found)], path)
    for folder in root.iterdir():
        (folder / "text.jpg").write_text("just text")
    return root


@pytest.fixture(scope="session")
def new_job(model: Path, pictures: Path) -> Make:
    """Makes jobs."""

    def make(folder: Path, suffix: str = ".csv", **changes: Any) -> Job:
        output = folder / f"scored{suffix}"
        options = {"model_uri": model, "image_dir": pictures, "output": output, "num_workers": 1, "device": "cpu"}
        return Job(output, options | changes)

    return make


@pytest.fixture(scope="session")
def unhurt_job(new_job: Make, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The job with the given options that came to its end, done once in the session."""
    jobs: dict[str, Job] = {}

    def find(**changes: Any) -> Job:
        key = str(changes)
        if key not in jobs:
            jobs[key] = new_job(tmp_path_factory.mktemp("unhurt"), **changes)
            code, said = jobs[key].run()
            assert code == 0, said
        return jobs[key]

    return find


def kill_in(job: Job, draw: random.Random, parts: int, **env: str) -> None:
    """Kills a job a moment after one of its `parts` is written."""
    wanted = draw.randrange(parts)
    with job.started(**env) as process:
        wait_for(lambda: job.folder.exists() and len(job.parts()) >= wanted, seconds=200, pause=0.001)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not job.output.exists()


@pytest.mark.parametrize(
    ("configuration", "options"),
    [("1 worker, Parquet", {"suffix": ".parquet"}), ("2 workers, CSV", {"num_workers": 2, "batch_size": 24})],
)
def test_killed_at_any_moment(
    configuration: str, options: dict[str, Any], new_job: Make, unhurt_job: Make, tmp_path: Path, row: Rows
) -> None:
    found = row(f"SIGKILL in scoring ({configuration})", PROMISE)
    unhurt = unhurt_job(**options)
    for number in range(int(os.environ.get("KILLS", 4))):
        hurt = new_job(tmp_path / f"hurt{number}", **options)
        kill_in(hurt, random.Random(f"{configuration}/{number}"), parts=15)
        hurt.goes_on(unhurt)
        found.add("equal rows")


@pytest.mark.thorough
def test_killed_in_a_part_of_a_list(new_job: Make, unhurt_job: Make, pictures: Path, tmp_path: Path, row: Rows) -> None:
    found = row("SIGKILL in scoring (part 2/3 of a list)", PROMISE)
    names = [*map(str, sorted(pictures.rglob("*.jpg"))), "missing.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(3 * names))
    options = {"image_dir": tmp_path / "list.txt", "shard": "2/3"}
    unhurt = unhurt_job(**options)
    for number in range(int(os.environ.get("KILLS", 4))):
        hurt = new_job(tmp_path / f"hurt{number}", **options)
        kill_in(hurt, random.Random(f"list/{number}"), parts=15)
        hurt.goes_on(unhurt)
        found.add("equal rows")
    assert len(pd.read_csv(unhurt.output)) == len(names)


def test_killed_while_it_streams_from_s3(
    new_job: Make, unhurt_job: Make, pictures: Path, s3: Any, tmp_path: Path, row: Rows
) -> None:
    found = row("SIGKILL in scoring (s3://, JSON lines)", PROMISE)
    uris = [upload(s3, pictures / folder, f"many/{folder}") for folder in ("0", "1", "2", "3", "4")]
    options = {"image_dir": os.path.dirname(uris[0]), "suffix": ".jsonl"}
    unhurt = unhurt_job(**options)
    for number in range(int(os.environ.get("KILLS", 4))):
        hurt = new_job(tmp_path / f"hurt{number}", **options)
        kill_in(hurt, random.Random(f"s3/{number}"), parts=5)
        with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "") as server:
            kept = hurt.goes_on(unhurt, MLFLOW_S3_ENDPOINT_URL=server.url)
            fetched = [path for method, path, _ in server.requests if re.match(r"/bucket/many/\d+/\d+\.jpg", path)]
        safe = [json.loads(line)["image"] for line in unhurt.output.read_text().splitlines()[:kept]]
        assert sorted(f"s3:/{path}" for path in fetched) == sorted(
            name for name in images_in(unhurt) if name not in safe
        )
        found.add("equal rows")


def images_in(job: Job) -> list[str]:
    """The pictures that it read from S3."""
    names = [json.loads(line)["image"] for line in job.output.read_text().splitlines()]
    return [name for name in names if not name.endswith("text.jpg")]


# What is patched so that the process kills itself there.
MOMENTS = {
    "the file is half written": "tables = parts.Parts.tables\n"
    "parts.Parts.tables = lambda self: (end() if number else table for number, table in enumerate(tables(self)))",
    "the file is complete, but has not got its name": "output.os.replace = "
    "lambda old, new, replace=os.replace: end() if os.path.basename(new).startswith('scored.') else replace(old, new)",
    "the file has its name, and its parts are there": "output.shutil.rmtree = end",
}


@pytest.mark.parametrize(("suffix", "moment"), cases(itertools.product((".parquet", ".csv"), MOMENTS), len(MOMENTS)))
def test_killed_while_the_parts_are_joined(
    suffix: str, moment: str, new_job: Make, unhurt_job: Make, tmp_path: Path, row: Rows
) -> None:
    found = row("SIGKILL while parts are joined to the file", PROMISE)
    hurt = new_job(tmp_path, suffix)
    assert hurt.run(MOMENTS[moment])[0] == -signal.SIGKILL
    assert hurt.output.exists() == (moment == "the file has its name, and its parts are there")
    assert (hurt.folder / hurt.output.name).exists() != hurt.output.exists()
    assert hurt.goes_on(unhurt_job(suffix=suffix)) == 1515
    found.add("equal rows, nothing scored")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.thorough)]
)
def test_asked_to_end(
    number: signal.Signals, code: int, new_job: Make, unhurt_job: Make, tmp_path: Path, row: Rows
) -> None:
    found = row(f"{number.name} in scoring", f"exit {code}; goes on after the rows that are kept")
    hurt = new_job(tmp_path)
    restore = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background job ignores Ctrl-C
    with hurt.started(restore) as process:
        wait_for(lambda: len(hurt.parts()) >= 5, seconds=200, pause=0.001)
        process.send_signal(number)
        assert process.wait(20) == code
    assert not hurt.output.exists()
    assert hurt.goes_on(unhurt_job(suffix=".csv")) >= 5 * ROWS_PER_PART
    found.add(f"exit {code}, equal rows")


def test_two_scorings_of_one_output(new_job: Make, unhurt_job: Make, tmp_path: Path, row: Rows) -> None:
    found = row("two scorings with one output", "the second: one line, exit 2")
    shared = new_job(tmp_path)
    with shared.started() as first:
        wait_for(lambda: shared.parts(), seconds=200, pause=0.001)
        first.send_signal(signal.SIGSTOP)  # so that it is not done before the second begins
        code, said = shared.run()
        assert (code, said.count("\n")) == (2, 1), said
        assert "is being written by another process; wait for it" in said
        first.send_signal(signal.SIGCONT)
        assert first.wait(200) == 0
    assert shared.output.read_bytes() == unhurt_job(suffix=".csv").output.read_bytes()
    found.add("exit 2, one line")
