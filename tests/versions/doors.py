"""Runs the steps behind a door: a combination of an environment, and a tracking server or none."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers import free_port, server

from versions.environments import ROOT
from versions.steps import STEPS


def run_steps(
    python: Path, folder: Path, tracking_uri: str = "", other_model: Path | None = None, only: Sequence[str] = STEPS
) -> dict[str, str]:
    """Plays the steps, or `only` some, with a Python in a folder.

    Returns:
        Step -> what was wrong; empty if nothing was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri or f"sqlite:///{folder}/mlflow.db"
    words = [
        python,
        STEPS,
        folder,
        *(["--other-model", other_model] if other_model else []),
        *(["--only", *only] if only else []),
    ]
    done = subprocess.run(words, cwd=folder, env=variables(python) | {"MLFLOW_TRACKING_URI": uri}, capture_output=True)
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"step"')]
    found = {facts["step"]: facts["problem"] for facts in map(json.loads, lines)}
    return found or {"start": done.stderr.decode()[-2000:]}


def variables(python: Path) -> dict[str, str]:
    """The environment variables of a process with this Python: the package is the checkout."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def mlflow_server(python: Path, folder: Path) -> Iterator[str]:
    """A tracking server of the version that this Python has."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [str(python), "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    url = f"http://127.0.0.1:{port}"
    with server(command, f"{url}/health", folder, **variables(python)):
        yield url
