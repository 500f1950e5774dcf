"""Servers with the gate store, on sqlite and on a PostgreSQL of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import database_of
from gate_server import RULES, Gate, gate_server


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Gate]:
    """A server for all tests, each of which has names of its own. Two workers on sqlite, which start sooner."""
    folder = tmp_path_factory.mktemp("gate")
    workers = 2 if request.param == "sqlite" else 4
    with database_of(request.param, folder, empty_database) as uri, gate_server(folder, RULES, uri, workers) as found:
        yield found
