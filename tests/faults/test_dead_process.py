"""A process of a training that dies: there is none but those of --processes and torchrun, and nobody waits for it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import psutil
import pytest
from harness import Place, Row, cases, wait_for_iteration

pytestmark = pytest.mark.faults

Make = Callable[..., Place]
Rows = Callable[[str, str], Row]
TORCHRUN = ("torch.distributed.run", "--standalone", "--max-restarts", "2", "--nproc-per-node", "2", "-m")


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train together, in the order of their ranks."""
    found = psutil.Process(process.pid).children(recursive=True)
    return sorted((each for each in found if "RANK" in each.environ()), key=lambda worker: worker.environ()["RANK"])


def test_images_are_loaded_without_processes_that_could_die(new_place: Make, row: Rows) -> None:
    found = row("dead loader worker", "there is none: threads load the images")
    place = new_place("threads", num_workers=2, cache="none")
    with place.started() as process:
        wait_for_iteration(process, 3)
        assert psutil.Process(process.pid).children(recursive=True) == []
        assert psutil.Process(process.pid).num_threads() > 2
        found.add("no child process")


@pytest.mark.parametrize("victim", cases([1, 0], 1))
def test_a_dead_rank_ends_the_command(victim: int, new_place: Make, unhurt_place: Make, row: Rows) -> None:
    found = row(
        "SIGKILL of one of 2 processes", "within 60 s one line, exit 2; the same command goes on, equal weights"
    )
    unhurt, place = unhurt_place(processes=2), new_place("hurt", processes=2)
    with place.started() as process:
        wait_for_iteration(process, 10)
        workers(process)[victim].kill()
        started = time.monotonic()
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - started
    assert process.returncode == 2
    last = said.splitlines()[-1]
    assert last.startswith(f"mlflow-resnet: process {victim + 1} of 2 (pid ")
    assert "was killed by SIGKILL" in last
    assert "Traceback" not in said
    done = place.run()
    assert "going on from the checkpoint" in done.stderr
    assert place.weights() == unhurt.weights()
    assert place.curve() == unhurt.curve()
    assert [run.info.status for run in place.runs()] == ["FINISHED"]
    found.add(f"exit 2 within {10 * (1 + seconds // 10):.0f} s, equal weights")


def test_torchrun_restarts_dead_ranks(new_place: Make, unhurt_place: Make, row: Rows) -> None:
    found = row(
        "SIGKILL of each of torchrun's 2 ranks in turn", "--max-restarts 2 goes on in the same run, equal weights"
    )
    unhurt, place = unhurt_place(processes=2), new_place("hurt")
    with place.started(TORCHRUN) as process:
        for victim in (1, 0):
            wait_for_iteration(process, 6)
            workers(process)[victim].kill()
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "going on from the checkpoint" in said
    assert place.weights() == unhurt.weights()
    assert place.curve() == unhurt.curve()
    assert [run.info.status for run in place.runs()] == ["FINISHED"]
    found.add("went on twice, equal weights")
