"""Empty databases: a file, or a PostgreSQL server of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import free_port


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
