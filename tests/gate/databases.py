"""Empty databases: a file, or a PostgreSQL server of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import free_port


def postgresql() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """The URI of an empty database. As root it runs as nobody, because PostgreSQL refuses root."""
    programs = postgresql()
    if not programs:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    person, port = [], free_port()
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:  # pytest's folders are for their owner only
        if os.geteuid() == 0:
            person = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(folder, "nobody", "nogroup")
        options = ["--auth=trust", "--username=mlflow", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run([*person, programs / "initdb", "-D", folder, *options], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with open(Path(folder) / "log", "w") as log:
            run = [*person, programs / "postgres", "-D", folder, *options]
            process = subprocess.Popen(run, stdout=log, stderr=log)
        try:
            ready = [programs / "pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet", "--timeout=5"]
            while subprocess.run(ready).returncode:
                assert process.poll() is None, (Path(folder) / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # which waits for nobody who is connected
            process.wait(60)


@contextlib.contextmanager
def database_of(kind: str, folder: Path, empty_database: Path) -> Iterator[str]:
    """The URI of a database with nothing in it."""
    if kind == "postgresql":
        with postgresql_server() as uri:
            yield uri
    else:
        shutil.copy(empty_database, folder / "mlflow.db")
        yield f"sqlite:///{folder}/mlflow.db"
