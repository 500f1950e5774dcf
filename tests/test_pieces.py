"""Pieces of a record that mlflow_resnet 0.1.0 left in an outbox: today's still delivers them."""

import json

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_resnet.flavor import save_model
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.model.classifier import new_classifier
from mlflow_resnet.tracking.outbox import Outbox
from mlflow_resnet.tracking.pieces import PIECE_KINDS, GivenRunPiece, Piece, parse_piece

DATA = {"name": "photos", "digest": "ab12", "source_type": "local", "source": '{"uri": "/photos"}'}
DATA |= {"schema": "{}", "profile": '{"num_images": 3}'}
RATES = {
    "values": {"schedule/learning_rate": 0.1},
    "step": 3,
    "time": 1700000000001,
    "dataset": None,
    "of_model": False,
}
LOSS = {"values": {"val_loss": 0.5}, "step": 1, "time": 1700000000002, "dataset": ["photos", "ab12"], "of_model": True}
BEFORE = [  # in the order in which they were put
    {
        "name": "resnet18 on photos",
        "experiment": "Default",
        "experiment_id": "",
        "time": 1700000000000,
        "tags": {"mlflow.user": "me"},
        "kind": "run",
        "id": "0a",
    },
    {"params": {"epochs": "2", "train_dir": "/photos"}, "kind": "params", "id": "0b"},
    {"tags": {"mlflow_resnet.version": "0.1.0"}, "kind": "tags", "id": "0c"},
    {"kind": "model", "id": "0d"},
    {"dataset": DATA, "context": "validation", "of_model": True, "kind": "input", "id": "0e"},
    {"points": [RATES, LOSS], "kind": "metrics", "id": "0f"},
    {"step": 1, "points": [LOSS], "kind": "epoch", "id": "10"},
    {"folder": "validation", "tables": ["most_confused.json"], "kind": "files", "id": "11"},
    {"step": 1, "kind": "model_files", "id": "12"},
    {
        "name": "photos",
        "alias": "",
        "description": "a card",
        "tags": {"val_loss": "0.5"},
        "kind": "version",
        "id": "13",
    },
]


def test_pieces_of_before_are_delivered(workdir, tmp_path):
    model = new_classifier("resnet18", ("a", "b"))
    for number, facts in enumerate(BEFORE, start=1):
        folder = tmp_path / "outbox" / f"{number:06d}"
        (folder / "files").mkdir(parents=True)
        (folder / "piece.json").write_text(json.dumps(facts))
        if facts["kind"] in ("epoch", "model_files"):
            save_model(model, folder / "files" / "model")
        if facts["kind"] == "files":
            (folder / "files" / "most_confused.json").write_text('{"columns": [], "data": []}')
    ids = Notes(record_id="mine")
    Outbox(tmp_path / "outbox", ids).deliver_all()
    run = mlflow.get_run(ids["run_id"])
    assert (run.info.run_name, run.info.start_time) == ("resnet18 on photos", 1700000000000)
    assert run.data.params == {"epochs": "2", "train_dir": "/photos"}
    assert run.data.tags["mlflow_resnet.version"] == "0.1.0"
    assert run.data.tags["mlflow_resnet.piece"] == "0a"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "validation/most_confused.json", "type": "table"}
    ]
    (rate,) = MlflowClient().get_metric_history(run.info.run_id, "schedule/learning_rate")
    assert (rate.step, rate.value, rate.timestamp) == (3, 0.1, 1700000000001)
    assert [each.dataset.name for each in run.inputs.dataset_inputs] == ["photos"]
    models = {each.name: each for each in mlflow.search_logged_models(output_format="list")}
    assert {name: str(each.status) for name, each in models.items()} == {"model": "READY", "epoch-1": "READY"}
    for each in models.values():
        assert [(metric.key, metric.dataset_digest) for metric in each.metrics] == [("val_loss", "ab12")]
    assert ids["version"] == "1"
    assert MlflowClient().get_model_version("photos", "1").description == "a card"
    assert not list((tmp_path / "outbox").iterdir())


@pytest.mark.parametrize("facts", BEFORE, ids=lambda facts: facts["kind"])
def test_a_piece_keeps_its_form_on_disks(facts):
    assert parse_piece(facts).to_json() == facts


def test_the_kinds_on_disks_are_those_of_before():
    before = {facts["kind"] for facts in BEFORE} | {"given_run", "model_failed"}
    assert set(PIECE_KINDS) == before
    assert all(issubclass(kind, Piece) for kind in PIECE_KINDS.values())
    given = {**BEFORE[0], "kind": "given_run", "run_id": "1", "record_id": "2", "params": {"epochs": "2"}}
    assert isinstance(parse_piece(given), GivenRunPiece)
    assert parse_piece(given).to_json() == given
