"""A run that somebody gives to a training, and what it holds already."""

import mlflow
import pytest
from helpers import TINY, run_main
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_PROJECT_ENTRY_POINT

from mlflow_resnet.io.notes import Notes
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.tracking.outbox import Outbox, begin_offline
from mlflow_resnet.tracking.pieces import ParamsPiece
from mlflow_resnet.tracking.record import Recorder
from mlflow_resnet.tracking.run import RECORD_TAG, enter_run, is_same_value
from mlflow_resnet.verbs.train import train

PARAMS = {"learning_rate": 0.01, "recipe.batch_size": 16}


@pytest.fixture
def given(workdir):
    """The id of a run that somebody began."""
    return MlflowClient().create_run("0").info.run_id


@pytest.fixture(scope="session")
def trained_model(trained):
    """A folder, found before a test has a tracking database of its own."""
    return mlflow.artifacts.download_artifacts(trained.model_uri)


def record_in_run(params=PARAMS, record_id="first", resumed_id=None):
    """The id of the run that gets a record."""
    with enter_run("training", params, record_id, resumed_id) as run:
        Recorder(Notes(run_id=run.info.run_id)).put(ParamsPiece(params={k: str(v) for k, v in params.items()}))
        return run.info.run_id


def parent_of(run_id):
    return mlflow.get_run(run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)


@pytest.mark.parametrize("minutes", [10, pytest.param(0, marks=pytest.mark.slow)])
def test_a_notebook_trains_twice_in_its_run(workdir, images, capfd, minutes):
    fixed = TINY | {"train_dir": str(images / "train"), "val_dir": str(images / "val"), "epochs": 1}
    fixed["checkpoint_minutes"] = minutes
    with mlflow.start_run() as own:
        first = train(TrainOptions(**fixed))
        second = train(TrainOptions(**fixed | {"learning_rate": 0.0001, "batch_size": 4, "epochs": 2}))
        assert mlflow.active_run().info.run_id == own.info.run_id
    assert first.run_id == own.info.run_id
    assert parent_of(second.run_id) == own.info.run_id
    assert f"run {own.info.run_id} holds another training, so this is recorded in run" in capfd.readouterr().err
    for result, rate, epochs in ((first, "0.003", [1]), (second, "0.0001", [1, 2])):
        run = mlflow.get_run(result.run_id)
        model = mlflow.get_logged_model(result.model_uri.removeprefix("models:/"))
        history = MlflowClient().get_metric_history(result.run_id, "val_loss")
        assert run.info.status == "FINISHED"
        assert run.data.params["recipe.learning_rate"] == model.params["recipe.learning_rate"] == rate
        assert [point.step for point in history] == epochs
        assert {point.key: point.value for point in model.metrics}["val_loss"] == result.metrics["val_loss"]


def test_a_job_with_a_run_id_is_started_again_with_other_values(given, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert record_in_run() == given
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    second = record_in_run(PARAMS | {"learning_rate": 0.1}, "second")
    assert parent_of(second) == given
    assert mlflow.get_run(second).data.params["learning_rate"] == "0.1"
    assert [mlflow.get_run(each).info.status for each in (given, second)] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize("has_run_id", [True, False])
def test_a_job_goes_on_in_the_run_or_the_child_that_it_began(given, monkeypatch, has_run_id):
    for record_id in ("first", "second"):
        monkeypatch.setenv("MLFLOW_RUN_ID", given)
        begun = record_in_run(PARAMS, record_id)
        if has_run_id:
            monkeypatch.setenv("MLFLOW_RUN_ID", given)
        assert record_in_run(PARAMS | {"learning_rate": 0.5}, record_id, resumed_id=begun) == begun
    assert "mlflow_resnet.continued_in" not in mlflow.get_run(given).data.tags


def test_a_run_with_values_of_the_users_own(workdir, capfd):
    with mlflow.start_run() as own:
        mlflow.log_params({"learning_rate": 0.1, "team": "birds"})
        child = record_in_run()
        assert parent_of(child) == own.info.run_id
        assert mlflow.get_run(child).data.params == {name: str(value) for name, value in PARAMS.items()}
        assert "has other values of learning_rate, so this is" in capfd.readouterr().err
        assert record_in_run({"team": "birds", "new": 1}, "") == own.info.run_id


def test_an_evaluation_after_a_training_in_one_run(trained_model, workdir, images):
    with mlflow.start_run() as own:
        mlflow.log_param("batch_size", "auto")
        found = run_main("evaluate", "--model-uri", trained_model, "--image-dir", images / "val", "--batch-size", 5)
    assert found.returncode == 0, found.stderr
    (child,) = mlflow.search_runs(filter_string="params.batch_size = '5'", output_format="list")
    assert parent_of(child.info.run_id) == own.info.run_id
    assert child.data.metrics["top1_accuracy"] > 0


@pytest.mark.parametrize(
    ("logged", "value", "is_project"),
    [
        ("0.010", "0.01", False),
        ("1e-3", "0.001", True),
        ("true", "True", True),
        ("'my images'", "my images", True),
        ("'my images'", "/home/me/my images", True),
        ("s3://bucket/images", "/tmp/param_0/images", True),
        ("''", "", True),
        ("x" * 6000, "x" * 7000, False),
    ],
)
def test_a_value_as_typed_is_no_other_value(logged, value, is_project):
    assert is_same_value(logged, value, is_project)


@pytest.mark.parametrize(
    ("logged", "value"), [("0.1", "0.01"), ("auto", "16"), ("False", "True"), ("photos", "/home/me/photos"), ("", "a")]
)
def test_a_value_that_is_another(logged, value):
    assert not is_same_value(logged, value, is_project=False)


def test_mlflow_run_has_logged_the_same_as_typed(given, monkeypatch):
    client = MlflowClient()
    client.set_tag(given, MLFLOW_PROJECT_ENTRY_POINT, "main")
    client.log_param(given, "learning_rate", "'1e-2'")
    client.log_param(given, "train_dir", "photos")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert record_in_run(PARAMS | {"train_dir": "/home/me/photos"}) == given


def test_a_value_that_appears_in_the_meantime_is_not_swallowed(given):
    MlflowClient().log_param(given, "learning_rate", "0.1")
    Recorder(Notes(run_id=given)).put(ParamsPiece(params={"learning_rate": "0.01", "new": "1"}))
    assert mlflow.get_run(given).data.params == {
        "learning_rate": "0.1",
        "mlflow_resnet.learning_rate": "0.01",
        "new": "1",
    }


@pytest.mark.parametrize("state", ["free", "used", "removed"])
def test_a_training_without_a_server_that_was_given_a_run(given, tmp_path, monkeypatch, state):
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    outbox = Outbox(tmp_path / "outbox", Notes(record_id="mine"))
    begin_offline(outbox, "training", PARAMS)
    begin_offline(outbox, "training", PARAMS)
    outbox.put(ParamsPiece(params={"learning_rate": "0.01"}))
    if state == "used":
        MlflowClient().set_tag(given, RECORD_TAG, "another")
    if state == "removed":
        MlflowClient().delete_run(given)
    outbox.deliver_all()
    found = outbox.ids["run_id"]
    assert (found == given) == (state == "free")
    assert parent_of(found) == (given if state == "used" else None)
    assert mlflow.get_run(found).data.tags[RECORD_TAG] == "mine"
    assert mlflow.get_run(found).data.params == {"learning_rate": "0.01"}
