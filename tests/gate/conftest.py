"""Servers with the gate store, on sqlite and on a PostgreSQL of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate_server import Gate, gate_server
from helpers import free_port

RULES = """
- models: "colors*"
  alias: champion
  require:
    metrics: {top1_accuracy: {min: 0.8}}
    dataset_digest: aaaa000011112222
  not_worse: {metric: top1_accuracy, by: 0.02}
- models: "tried*"
  alias: champion
  mode: dry-run
  require: {metrics: {top1_accuracy: {min: 0.8}}}
- models: "approved*"
  alias: champion
  approval: {tag: approved}
- models: "filed*"
  alias: champion
  require: {signature: true, flavor: mlflow_resnet}
- models: "removable*"
  alias: champion
  remove: allowed
"""


def postgresql() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def postgresql_server(folder: Path) -> Iterator[str]:
    """The URI of an empty database. As root it runs as nobody, because PostgreSQL refuses root."""
    programs = postgresql()
    if not programs:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    data, port = folder / "postgresql", free_port()
    data.mkdir()
    person = []
    if os.geteuid() == 0:
        person = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(data, "nobody", "nogroup")
        for parent in [folder, *folder.parents][:3]:  # pytest's folders are for their owner only
            with contextlib.suppress(PermissionError):
                parent.chmod(parent.stat().st_mode | 0o011)
    run = [*person, str(programs / "initdb"), "--pgdata", str(data), "--auth=trust", "--username=mlflow", "--no-sync"]
    subprocess.run(run, check=True, capture_output=True, cwd="/")
    options = ["-p", str(port), "-k", str(data), "-c", "listen_addresses=127.0.0.1"]
    with open(folder / "postgresql.log", "w") as log:
        run = [*person, str(programs / "postgres"), "-D", str(data), *options]
        process = subprocess.Popen(run, stdout=log, stderr=log, cwd="/")
    try:
        ready = [str(programs / "pg_isready"), "--host=127.0.0.1", f"--port={port}", "--quiet", "--timeout=60"]
        while subprocess.run(ready).returncode:
            assert process.poll() is None, (folder / "postgresql.log").read_text()
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def database_of(kind: str, folder: Path, empty_database: Path) -> Iterator[str]:
    """The URI of a database with nothing in it."""
    if kind == "postgresql":
        with postgresql_server(folder) as uri:
            yield uri
    else:
        shutil.copy(empty_database, folder / "mlflow.db")
        yield f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Gate]:
    """A server for all tests, each of which has names of its own. Two workers on sqlite, which start sooner."""
    folder = tmp_path_factory.mktemp("gate")
    workers = 2 if request.param == "sqlite" else 4
    with database_of(request.param, folder, empty_database) as uri, gate_server(folder, RULES, uri, workers) as found:
        yield found
