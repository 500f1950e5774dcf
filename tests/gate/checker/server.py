"""A server with the gate, four workers and three users, on a database of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from databases import database_of
from gate_server import gate_server

from checker.rules import RULES, text_of
from checker.world import KEY, PASSWORD, USERS, Site, World

ADMIN = ("admin", "a rather long word")
TESTS = Path(__file__).parents[2]


@contextlib.contextmanager
def site(kind: str, folder: Path, empty_database: Path) -> Iterator[Site]:
    """Args:
    kind: of database, sqlite or postgresql.
    """
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = MANAGE\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\nauth_cache_ttl_seconds = 3600\n"
        "authorization_function = checker.people:authenticate\n"
    )
    env = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "MLFLOW_RESNET_GATE_KEY": KEY,
        "PYTHONPATH": os.pathsep.join([str(TESTS / "gate"), str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    with (
        database_of(kind, folder, empty_database) as database,
        gate_server(folder, text_of(RULES), database, 4, ("--app-name", "basic-auth"), **env) as server,
    ):
        for name in USERS:
            body = {"username": name, "password": PASSWORD}
            requests.post(f"{server.url}/api/2.0/mlflow/users/create", json=body, auth=ADMIN).raise_for_status()
        found = Site(server.url, database, server.policy)
        warm(found)
        try:
            yield found
        finally:
            found.engine.dispose()  # PostgreSQL waits for those who are connected


def warm(found: Site) -> None:
    """Every worker imports much with its first request, which would hide races."""
    world = World(found, 0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: world.send("ann", "GET", "registered-models/search"), range(48)))
