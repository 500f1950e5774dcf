"""The commands against a server with a gate, which decides and keeps the history."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest
from gate_server import Gate
from helpers import TINY, flags, how_it_ends, run_main

import mlflow_resnet
from mlflow_resnet.options import HistoryOptions, PromoteOptions
from mlflow_resnet.registry import aliases
from mlflow_resnet.registry.alias_history import PROMOTE, Move
from mlflow_resnet.registry.history_archive import MOST_ENTRIES
from mlflow_resnet.verbs.promote import promote


@pytest.fixture(scope="module")
def models(gate: Gate, trained) -> Iterator[dict[int, str]]:
    """On the gate's server: 1 knows its colors, 2 has random weights."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(gate.url)
    known = trained.classifier
    random = mlflow_resnet.new_classifier("resnet18", known.classes, known.preprocessing)
    yield {number: mlflow_resnet.log_model(made).model_uri for number, made in ((1, known), (2, random))}
    mlflow.set_tracking_uri(before)


def registered(name: str, models: dict[int, str]) -> str:
    for uri in models.values():
        mlflow.register_model(uri, name)
    return name


def options(name: str, version: int, images, **changes) -> PromoteOptions:
    return PromoteOptions(model_uri=f"models:/{name}/{version}", image_dir=str(images / "val"), **changes)


def test_the_server_writes_the_history_of_a_promotion_and_of_its_rollback(gate, models, images):
    name = registered("removable by commands", models)
    promote(options(name, 1, images))
    promote(options(name, 2, images, max_drop=1.0))
    assert gate.champion(name) == 2
    assert run_main("rollback", "--name", name).returncode == 0
    assert gate.champion(name) == 1
    moves = mlflow_resnet.history(HistoryOptions(name=name))
    assert [(each.action, each.before, each.after) for each in moves] == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("rollback", 2, 1),
    ]
    assert all(each.policy for each in moves)
    assert "guarded   by the gate of the server" in run_main("champion", "--name", name).stdout
    assert run_main("rollback", "--name", name).returncode == 3
    assert gate.champion(name) == 1


def test_a_refusal_of_the_gate_is_one_line_and_exit_3(gate, models, images):
    name = registered("colors by commands", models)
    result = run_main("promote", "--model-uri", f"models:/{name}/1", "--image-dir", images / "val")
    assert result.returncode == 3
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"mlflow-resnet: not moved: The gate refused: version 1 of {name} may not become @champion")
    assert "expected aaaa000011112222" in line
    assert gate.champion(name) is None
    assert mlflow.MlflowClient().get_model_version(name, "1").tags["mlflow_resnet_promotion_result"] == "refused"


def test_of_several_promotions_at_once_the_gate_lets_one_through(gate, models, images):
    name = registered("removable by several", models)
    measured = [promote(options(name, version, images, measure_only=True)) for version in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(how_it_ends, measured))
    (refused,) = [end for end in ends if end != "promoted"]
    assert f"but version {gate.champion(name)} is @champion now, since" in refused


@pytest.mark.slow
def test_models_without_rules_keep_their_history_as_on_any_server(gate, models, images):
    name = registered("unruled", models)
    promote(options(name, 1, images))
    promote(options(name, 2, images, max_drop=1.0))
    assert run_main("rollback", "--name", name).returncode == 0
    assert [each.policy for each in mlflow_resnet.history(HistoryOptions(name=name))] == [None] * 3
    assert "this server has no gate" in run_main("champion", "--name", name).stdout


@pytest.mark.slow
def test_a_gate_keeps_the_whole_history_that_clients_write_in_tags(gate, models, monkeypatch, capsys):
    """It lets nobody take entries away, so nothing is moved into artifacts, and nobody hears of it."""
    name = registered("colors contended", models)
    monkeypatch.setattr(aliases, "CLAIM_SECONDS", 0.02)
    capsys.readouterr()
    for number in range(MOST_ENTRIES + 2):
        before = 2 - number % 2 if number else None
        aliases.move_alias(Move(name, "contender", before, 1 + number % 2, PROMOTE))
    assert len(gate.history(name, "contender")) == MOST_ENTRIES + 2
    assert capsys.readouterr().err == ""
    assert not [key for key in gate.client.get_registered_model(name).tags if key.endswith("_older")]


def test_a_challenger_is_promoted_though_the_champion_of_the_model_is_guarded(gate, models, images):
    """The sequence of the README."""
    name = registered("colors with a challenger", models)
    uri = f"models:/{name}/1"
    result = run_main("promote", "--model-uri", uri, "--image-dir", images / "val", "--alias", "challenger")
    assert result.returncode == 0, result.stderr
    assert "guarded   by nobody" in result.stdout
    model, version = gate.client.get_registered_model(name), gate.client.get_model_version(name, "1")
    assert gate.champion(name, "challenger") == 1
    assert version.tags["mlflow_resnet_promotion_result"] == "promoted"
    assert [key for key in model.tags if "claim" in key] == []
    assert [
        (each.action, each.after, each.policy)
        for each in mlflow_resnet.history(HistoryOptions(name=name, alias="challenger"))
    ] == [("promote", 1, None)]
    assert run_main("promote", "--model-uri", uri, "--image-dir", images / "val").returncode == 3
    assert gate.champion(name) is None


def test_a_training_registers_its_version_though_the_gate_refuses_the_alias(gate, models, images, tmp_path):
    given = TINY | {"epochs": 1, "registered_model_name": "colors of a training", "alias": "champion"}
    given |= {"train_dir": images / "train", "val_dir": images / "val", "checkpoint_dir": tmp_path}
    result = run_main("train", *flags(given))
    assert result.returncode == 0, result.stderr
    assert "version 1 of colors of a training is registered, but @champion was not moved: The gate" in result.stderr
    assert "registry  models:/colors of a training/1\n" in result.stdout
    assert gate.champion("colors of a training") is None
