"""The same steps with the oldest and with a middle version of what the package requires, and across versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from versions.doors import DATABASE, FOLDER, SERVER, play_steps, variables
from versions.environments import KNOWN, build, describe
from versions.steps import STEPS

pytestmark = pytest.mark.slow
RUNNING = Path(sys.executable)
ACROSS = ("train", "record", "score", "evaluate", "promote", "predict")


def done(steps: Iterable[str]) -> dict[str, str]:
    """What `run_steps` returns if all is well."""
    return dict.fromkeys(steps, "")


@pytest.fixture(scope="module")
def lowest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    environment = tmp_path_factory.mktemp("environment") / "lowest"
    yield build(KNOWN["lowest"], environment)
    shutil.rmtree(environment)  # gigabytes


@pytest.fixture(scope="module")
def run_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the running environment has played the steps."""
    folder = tmp_path_factory.mktemp("here")
    assert play_steps(RUNNING, folder, DATABASE) == done(STEPS)
    return folder


def load_other(python: Path, folder: Path, other: Path) -> dict[str, str]:
    return play_steps(python, folder, DATABASE, other_model=other / "model", only=["load_other"])


def test_all_works_with_the_lowest_versions_that_are_allowed(lowest, run_here, tmp_path):
    assert play_steps(lowest, tmp_path, DATABASE) == done(STEPS), describe(lowest)
    assert load_other(lowest, tmp_path, run_here) == done(["load_other"])
    assert load_other(RUNNING, run_here, tmp_path) == done(["load_other"])


def test_a_training_is_kept_in_files_where_mlflow_does_so(lowest, tmp_path):
    steps = ("train", "record", "promote", "score")
    assert play_steps(lowest, tmp_path, FOLDER, only=steps) == done(steps)


def test_all_works_with_the_mlflow_of_a_managed_platform(run_here, tmp_path):
    python = build(KNOWN["databricks-18"], tmp_path / "environment")
    assert play_steps(python, tmp_path / "middle", DATABASE) == done(STEPS), describe(python)
    assert load_other(python, tmp_path / "middle", run_here) == done(["load_other"])


@pytest.mark.parametrize("is_server_older", [False, True], ids=["old client", "old server"])
def test_a_client_works_with_a_server_of_another_version(lowest, tmp_path, is_server_older):
    client, side = (RUNNING, lowest) if is_server_older else (lowest, RUNNING)
    assert play_steps(client, tmp_path, SERVER, side, only=ACROSS) == done(ACROSS)


def test_a_gate_in_a_server_that_is_too_old_says_what_it_needs(lowest, tmp_path):
    code = "from mlflow_resnet.registry.gate.plugin import build; build('resnet-gate+sqlite:///gate.db')"
    ended = subprocess.run([lowest, "-c", code], cwd=tmp_path, env=variables(lowest), capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert "the gate does not start: it needs MLflow 3.17 or newer in the server, which has 3.1.0" in last
    assert not (tmp_path / "gate.db").exists()
