"""Eight promote at once, again and again: one wins each round, and the others are told by whom."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import pytest
from databases import database_of
from gate_server import RULES, Gate, Version, gate_server, proof, tag_of
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException

from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.gate.plugin import build

PROCESSES, ROUNDS = 8, 25


def race(url: str, folder: str, barrier, versions: list[Version], answers) -> None:
    """One of the processes: in each round it moves the alias to its version at the same moment as the others."""
    gate = Gate(url, Path(folder), Path(folder))
    for version in versions:
        barrier.wait(300)
        answers.put((version.number, gate.move(version).status))
        barrier.wait(300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_eight_promotions_at_once_one_wins_each_round(kind, tmp_path, empty_database):
    with (
        database_of(kind, tmp_path, empty_database) as uri,
        gate_server(tmp_path, RULES, uri, workers=4) as gate,
    ):
        winners = raced(gate)
        entries = gate.history("colors")
        assert [each.sequence for each in entries] == list(range(1, ROUNDS + 2))
        assert [each.after for each in entries] == [1, *winners]
        assert [each.before for each in entries] == [None, 1, *winners[:-1]]
        assert [each.time for each in entries] == sorted(each.time for each in entries)
        assert gate.champion("colors") == winners[-1]


def raced(gate: Gate) -> list[int]:
    """The version that won each round; each round's versions are measured against the winner of the one before."""
    champion = gate.promoted("colors")
    model_id, weights = champion.model_id, champion.weights
    processes = get_context("fork")
    barrier, answers = processes.Barrier(PROCESSES + 1), processes.Queue()
    versions = [replace(gate.register("colors", model_id), weights=weights) for _ in range(PROCESSES * ROUNDS)]
    rounds = [versions[start : start + PROCESSES] for start in range(0, len(versions), PROCESSES)]
    lanes = [
        processes.Process(target=race, args=(gate.url, str(gate.folder), barrier, list(lane), answers))
        for lane in zip(*rounds, strict=True)
    ]
    for lane in lanes:
        lane.start()
    winners = []
    for versions in rounds:
        for version in versions:
            gate.measure(version, champion)
        barrier.wait(300)
        barrier.wait(300)
        found = dict(answers.get(timeout=60) for _ in versions)
        assert sorted(found.values()) == [200] + [409] * (PROCESSES - 1), found
        champion = next(version for version in versions if found[version.number] == 200)
        winners.append(champion.number)
    for lane in lanes:
        lane.join(60)
        assert lane.exitcode == 0
    return winners


def test_of_eight_threads_with_stores_of_their_own_one_wins_each_round(workdir, monkeypatch):
    """The same without servers, in seconds."""
    (workdir / "policy.yaml").write_text("- {models: colors, alias: champion}\n")
    uri = f"sqlite:///{workdir}/mlflow.db"
    monkeypatch.setenv("MLFLOW_RESNET_GATE_POLICY", str(workdir / "policy.yaml"))
    stores = [build(f"resnet-gate+{uri}", uri) for _ in range(PROCESSES)]
    client, first = MlflowClient(uri), stores[0]
    model = client.create_logged_model("0", params={"model_sha256": "ab"})
    client.finalize_logged_model(model.model_id, "READY")
    first.create_registered_model("colors")
    champion, winners = None, []
    for _ in range(5):
        versions = [version_in(first, model, champion) for _ in stores]
        start = Barrier(PROCESSES)
        with ThreadPoolExecutor(PROCESSES) as pool:
            said = list(pool.map(lambda store, version: moved(store, version, start), stores, versions))  # noqa: B023
        assert sorted(said) == ["RESOURCE_CONFLICT"] * (PROCESSES - 1) + ["moved"]
        champion = versions[said.index("moved")]
        winners.append(champion.number)
    entries = alias_history.entries(first.get_registered_model("colors").tags, "champion")
    assert [(each.sequence, each.after) for each in entries] == list(enumerate(winners, 1))


def version_in(store, model, champion: Version | None) -> Version:
    """A new version of the logged model, measured against the champion."""
    made = store.create_model_version("colors", f"models:/{model.model_id}")
    version = Version("colors", int(made.version), model.model_id, "ab")
    store.set_model_version_tag("colors", version.number, ModelVersionTag(*tag_of(proof(version, champion))))
    return version


def moved(store, version: Version, start: Barrier) -> str:
    """What the store says to who moves the alias."""
    start.wait(60)
    try:
        store.set_registered_model_alias("colors", "champion", version.number)
    except MlflowException as error:
        return error.error_code
    return "moved"
