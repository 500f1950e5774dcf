"""A tracking server that dies, hangs or answers with errors holds up no training, and gets each point once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from harness import Place, Row, wait_for_iteration
from helpers import free_port, run_cli, server
from proxy import faulty

pytestmark = pytest.mark.faults

Make = Callable[..., Place]
Rows = Callable[[str, str], Row]
WHOLE = "training goes on; every point on the server, once"
KEPT = "exit 4, the model is on the disk; sync delivers run, artifacts and version"
EPOCHS = 30


@contextlib.contextmanager
def tracking_server(place: Place, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real one, on the database of the place, which is killed after the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]
    fewer_processes = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with server(command, f"http://127.0.0.1:{port}/health", place.path, **fewer_processes) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Where the tracking server of the test is."""
    number = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{number}")
    return number


def rest_of(process: subprocess.Popen[str]) -> str:
    """What a training says until it has ended."""
    assert process.stderr
    said = process.stderr.read()
    process.wait()
    return said


def assert_whole(place: Place, epochs: int) -> None:
    """Each point is there once, and the finished run has its pictures, its models and one of them in the registry."""
    assert [step for step, _ in place.curve()] == list(range(1, epochs + 1))
    assert [step for step, _ in place.curve("schedule/learning_rate")] == list(range(1, 6 * epochs + 1))
    (run,) = place.runs()
    assert run.info.status == "FINISHED"
    names = [f"epoch-{epoch}" for epoch in range(1, epochs + 1)] if place.options.get("epoch_models") else []
    assert sorted(model.name for model in place.client().search_logged_models(["0"])) == [*names, "model"]
    files = {path.name for path in (place.path / "artifacts").rglob("*")}
    assert {"training_images.png", "confusion_matrix.png", "per_class.json", "predictions.parquet", "MLmodel"} <= files
    (version,) = place.client().search_model_versions("name = 'shapes'")
    assert version.run_id == run.info.run_id
    assert place.client().get_model_version_by_alias("shapes", "champion").version == version.version


def named_place(new_place: Make, **options: object) -> Place:
    """With a database that the server makes, so that artifacts go through it too."""
    place = new_place("hurt", registered_model_name="shapes", alias="champion", **options)
    (place.path / "mlflow.db").unlink()
    return place


def test_killed_and_started_again_three_times(new_place: Make, port: int, row: Rows) -> None:
    found = row("tracking server killed and started again 3 times in a run", WHOLE)
    place = named_place(new_place, epochs=EPOCHS)
    with contextlib.ExitStack() as up:
        up.enter_context(tracking_server(place, port))
        with place.started() as process:
            for _ in range(3):
                wait_for_iteration(process, 12)
                up.close()
                wait_for_iteration(process, 12)
                up.enter_context(tracking_server(place, port))
            said = rest_of(process)
        assert process.returncode == 0, said
    assert_whole(place, EPOCHS)
    found.add("each point once")


@pytest.mark.thorough
def test_a_server_that_hangs(new_place: Make, port: int, row: Rows) -> None:
    found = row("tracking server hangs for 20 s of a run", WHOLE)
    place = named_place(new_place, epochs=EPOCHS)
    with tracking_server(place, port) as serving, place.started() as process:
        wait_for_iteration(process, 6 * 8)
        os.killpg(serving.pid, signal.SIGSTOP)
        began = time.monotonic()
        wait_for_iteration(process, 6 * 8)  # which is not held up by the silence
        time.sleep(max(0, 20 - (time.monotonic() - began)))
        os.killpg(serving.pid, signal.SIGCONT)
        said = rest_of(process)
    assert process.returncode == 0, said
    assert_whole(place, EPOCHS)
    speeds = [value for _, value in place.curve("train_images_per_second")]
    found.add(f"each point once, at {median(speeds[8:16]) / median(speeds[:8]):.0%} of the speed before")


@pytest.mark.thorough
def test_a_server_with_errors(new_place: Make, port: int, row: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    found = row("tracking server answers 503 during half of a run", WHOLE)
    place = named_place(new_place, epochs=EPOCHS)
    broken: list[bool] = []
    with (
        tracking_server(place, port),
        faulty(f"http://127.0.0.1:{port}", lambda method, path: "503" if broken else "") as between,
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", between.url)
        with place.started() as process:
            wait_for_iteration(process, 12)
            broken.append(True)
            said = wait_for_iteration(process, 6 * EPOCHS // 2)
            broken.clear()
            said += rest_of(process)
    assert process.returncode == 0, said
    assert "does not take what is logged" in said
    assert "MLflow answers again" in said
    assert_whole(place, EPOCHS)
    found.add("each point once")


def assert_kept(place: Place, code: int, said: str) -> Path:
    """The last line names the folder, the model, which can be used, and the command that delivers it."""
    last = said.splitlines()[-1]
    assert code == 4, said
    assert f"To deliver it: mlflow-resnet sync {place.folder}" in last
    model = Path(last.split("The trained model is in ")[1].split(". To deliver")[0])
    images = place.options["val_dir"]
    scored = run_cli("score", "--model-uri", model, "--image-dir", images, "--output", "s.csv", cwd=place.path)
    assert scored.returncode == 0, scored.stderr
    return model


def assert_delivered_by_sync(place: Place, epochs: int) -> None:
    done = run_cli("sync", "saved", cwd=place.path)
    assert done.returncode == 0, done.stderr
    assert_whole(place, epochs)
    again = place.run()
    assert again.returncode == 0, again.stderr
    assert "this training is complete" in again.stderr


def test_still_away_at_the_end(new_place: Make, port: int, row: Rows) -> None:
    found = row("tracking server killed, away at the end", KEPT)
    place = named_place(new_place, epoch_models=True)
    with contextlib.ExitStack() as up:
        up.enter_context(tracking_server(place, port))
        with place.started() as process:
            wait_for_iteration(process, 8)
            up.close()
            said = rest_of(process)
        assert_kept(place, process.returncode, said)
        early = run_cli("sync", "saved", cwd=place.path)
        assert early.returncode == 2
        assert "does not answer" in early.stderr.splitlines()[-1]
        up.enter_context(tracking_server(place, port))
        assert_delivered_by_sync(place, 4)
    found.add("exit 4, delivered by sync")


@pytest.mark.thorough
def test_an_artifact_store_that_fails(new_place: Make, port: int, row: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    found = row("artifact store answers 503 from the first epoch on", KEPT)
    place = named_place(new_place, epoch_models=True)
    direct = f"http://127.0.0.1:{port}"

    def spoil(method: str, path: str) -> str:
        return "503" if "mlflow-artifacts" in path else ""

    with tracking_server(place, port), faulty(direct, spoil) as between:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", between.url)
        done = place.run()
        assert_kept(place, done.returncode, done.stderr)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", direct)
        assert run_cli("sync", "saved", cwd=place.path).returncode == 0
        assert_whole(place, 4)
    found.add("exit 4, delivered by sync")


@pytest.mark.thorough
def test_offline(new_place: Make, port: int, row: Rows) -> None:
    found = row("no tracking server at all, --offline", "exit 0; killed, it goes on; sync delivers everything")
    place = named_place(new_place, offline=True, epoch_models=True)
    with place.started() as process:
        wait_for_iteration(process, 9)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "going on from the checkpoint" in done.stderr
    assert f"mlflow-resnet sync {place.folder}" in done.stderr
    with tracking_server(place, port):
        assert_delivered_by_sync(place, 4)
    found.add("delivered by sync, each point once")


def test_down_at_the_start(new_place: Make, port: int, row: Rows) -> None:
    found = row("tracking server down at the start", "one line within 30 s, exit 2")
    place = new_place("hurt")
    started = time.monotonic()
    done = place.run()
    assert done.returncode == 2
    assert f"MLflow at http://127.0.0.1:{port} does not answer" in done.stderr.splitlines()[-1]
    assert time.monotonic() - started < 30 + 60  # to import torch on a busy machine
    found.add("exit 2, one line")


@pytest.mark.thorough
def test_asked_to_end_while_the_server_hangs(new_place: Make, port: int, row: Rows) -> None:
    found = row("SIGTERM while the tracking server hangs", "saves, exit 143 within 20 s; goes on; every point once")
    place = named_place(new_place, epochs=8)
    with tracking_server(place, port) as serving:
        with place.started() as process:
            wait_for_iteration(process, 10)
            os.killpg(serving.pid, signal.SIGSTOP)
            wait_for_iteration(process, 12)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
        os.killpg(serving.pid, signal.SIGCONT)
        done = place.run()
        assert done.returncode == 0, done.stderr
    assert_whole(place, 8)
    found.add("exit 143, went on, each point once")
