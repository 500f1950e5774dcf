"""Plays the steps behind a door: an environment, and where its runs and its registry are."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from doors.azureml_proxy import azure_server
from doors.unity_catalog_proxy import unity_catalog
from helpers import mlflow_server

from versions.environments import ROOT
from versions.steps import NAME, STEPS


@dataclass(frozen=True)
class Door:
    """Where runs and registered models are.

    Attributes:
        title: for the table.
        open: a Python and a folder -> a tracking URI, while it is there.
        steps: those that make sense there.
        name: of the registered model.
    """

    title: str
    open: Callable[[Path, Path], AbstractContextManager[str]]
    steps: Sequence[str] = STEPS
    name: str = NAME


def play_steps(
    python: Path,
    folder: Path,
    door: Door,
    side: Path | None = None,
    other_model: Path | None = None,
    only: Sequence[str] = (),
) -> dict[str, str]:
    """Plays the steps of a door, or `only` some, with a Python in a folder.

    Args:
        side: the Python of the server, if it is another one.

    Returns:
        Step -> what was wrong; empty if nothing was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--name", door.name, "--only", *(only or door.steps)]
    if other_model:
        words += ["--other-model", str(other_model)]
    with door.open(side or python, folder) as uri:
        environment = variables(python) | {"MLFLOW_TRACKING_URI": uri}
        command = [python, STEPS_FILE, folder, *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"step"')]
    found = {facts["step"]: facts["problem"] for facts in map(json.loads, lines)}
    return found or {"start": done.stderr[-2000:]}


def variables(python: Path) -> dict[str, str]:
    """The environment variables of a process with this Python: the package is the checkout."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def open_database(python: Path, folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/mlflow.db"


@contextlib.contextmanager
def open_folder(python: Path, folder: Path) -> Iterator[str]:
    """What MLflow to 3.6 uses where nothing is set."""
    yield str(folder / "mlruns")


@contextlib.contextmanager
def open_server(python: Path, folder: Path) -> Iterator[str]:
    """A tracking server of the version that this Python has, which passes artifacts on."""
    with mlflow_server(folder / "server", python=python, **variables(python)) as url:
        yield url


@contextlib.contextmanager
def open_azureml(python: Path, folder: Path) -> Iterator[str]:
    with open_server(python, folder) as url, azure_server(url) as between:
        yield between.url


@contextlib.contextmanager
def open_unity_catalog(python: Path, folder: Path) -> Iterator[str]:
    with open_server(python, folder) as url, unity_catalog(url) as between:
        yield between.url


STEPS_FILE = Path(__file__).with_name("steps.py")
WITHOUT_ALIASES = tuple("measure" if step == "promote" else step for step in STEPS)
DATABASE = Door("database", open_database)
FOLDER = Door("./mlruns", open_folder)
SERVER = Door("MLflow's server", open_server)
AZUREML = Door("imitation of Azure ML", open_azureml, WITHOUT_ALIASES)
UNITY_CATALOG = Door("imitation of Unity Catalog", open_unity_catalog, name="main.vision.flowers")
