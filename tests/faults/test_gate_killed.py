"""A server with the gate store that is killed while aliases move leaves the old or the new champion, and says which."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import psutil
import pytest
import requests
from gate_server import Gate, Version, gate_server
from harness import Row

pytestmark = pytest.mark.faults
RULES = "- {models: colors, alias: champion}\n"


def promote_until_killed(gate: Gate, told: list[tuple[Version, int]]) -> None:
    """Promotes one version after the other, noting what the server answered."""
    champion: Version | None = None
    try:
        while True:
            version = gate.register("colors")
            gate.measure(version, champion)
            told.append((version, 0))
            told[-1] = (version, gate.move(version).status)
            champion = version
    except (requests.RequestException, AssertionError):
        return


@pytest.mark.parametrize("kill", range(int(os.environ.get("KILLS", 3))))
def test_the_server_is_killed_while_aliases_move(
    kill: int, tmp_path: Path, empty_database: Path, row: Callable[[str, str], Row]
) -> None:
    found = row("SIGKILL of the server with the gate", "old or new champion READY; history says the same")
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    told: list[tuple[Version, int]] = []
    with gate_server(tmp_path, RULES, workers=1) as gate:
        thread = Thread(target=promote_until_killed, args=(gate, told))
        thread.start()
        while len(told) < 3:
            time.sleep(0.05)
        time.sleep(random.Random(kill).uniform(0, 1))
        port = gate.url.rpartition(":")[2]
        own = [each for each in psutil.process_iter(["cmdline"]) if port in (each.info["cmdline"] or ())]
        for process in {child for each in own for child in [each, *each.children(recursive=True)]}:
            process.send_signal(signal.SIGKILL)
        thread.join(60)
    with gate_server(tmp_path, RULES, workers=1) as gate:
        entries = gate.history("colors")
        answered = [version.number for version, status in told if status == 200]
        last = told[-1][0].number
        assert gate.champion("colors") in {answered[-1], last}
        assert [each.after for each in entries] == [
            *answered,
            *([last] if gate.champion("colors") != answered[-1] else []),
        ]
        assert [each.sequence for each in entries] == list(range(1, len(entries) + 1))
        champion = gate.client.get_model_version_by_alias("colors", "champion")
        assert champion.status == "READY"
        following = gate.register("colors")
        gate.measure(following, next(version for version, _ in told if version.number == gate.champion("colors")))
        assert gate.move(following).status == 200
        found.add("champion READY, history complete, the next promotion passes")
