"""What a training notes of its result, and what is read of notes that earlier versions wrote."""

import json
from dataclasses import replace

import pytest

from mlflow_resnet.errors import CheckpointError
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.model.classifier import new_classifier
from mlflow_resnet.model.precision import PrecisionCheck
from mlflow_resnet.tracking.training_record import note_result, read_record


def test_a_result_is_read_as_it_was_noted(tmp_path):
    path = tmp_path / "training.json"
    notes = Notes(path, run_id="1", model_id="m-2", version="3", alias="")
    check = PrecisionCheck(12, 1.0, -0.01)
    trained = new_classifier("resnet18", ("a", "b"))
    calibrated = replace(trained, temperature=1.5, precision_checks={"bf16": check})
    note_result(notes, 4, {"val_loss": 0.5}, calibrated)
    record = read_record(Notes(path))
    assert (record.run_id, record.model_uri, record.version, record.alias) == ("1", "models:/m-2", "3", "")
    assert (record.best_epoch, record.metrics, record.temperature) == (4, {"val_loss": 0.5}, 1.5)
    result = record.complete(trained)
    assert result.classifier.temperature == 1.5
    assert result.classifier.precision_checks == {"bf16": check}


def test_notes_of_earlier_versions_are_read(tmp_path):
    metrics = {"val_loss": 0.5, "calibration/temperature": 1.25, "precision/bf16_images": 12}
    before = {"identity": {}, "record_id": "0f", "run_id": "1", "model_id": "m-2", "begun": True, "audit": []}
    before |= {"best_epoch": 4, "metrics": metrics, "status": "FINISHED", "ended": 1700000000000}
    (tmp_path / "training.json").write_text(json.dumps(before))
    record = read_record(Notes(tmp_path / "training.json"))
    assert (record.run_id, record.model_uri, record.best_epoch) == ("1", "models:/m-2", 4)
    assert (record.metrics, record.temperature, record.precision_checks) == (metrics, 1.25, {})


def test_notes_of_an_unfinished_training_are_a_record(tmp_path):
    (tmp_path / "training.json").write_text('{"identity": {}, "run_id": "1", "model_id": null}')
    record = read_record(Notes(tmp_path / "training.json"))
    assert (record.run_id, record.model_uri, record.version, record.best_epoch) == ("1", "", "", 0)


@pytest.mark.parametrize("check", [{}, {"images": "x", "label_agreement": 1, "accuracy_change": 0}, {"other": 1}])
def test_damaged_checks_are_told(tmp_path, check):
    (tmp_path / "training.json").write_text(json.dumps({"precision_checks": {"bf16": check}}))
    with pytest.raises(CheckpointError, match="damaged precision_checks .*Remove the folder"):
        read_record(Notes(tmp_path / "training.json"))
