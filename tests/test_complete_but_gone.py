"""A training that was complete, and a server that no longer has all of it; the same command again."""

import contextlib
import shutil

import mlflow
import pytest
from helpers import TINY, flags, run_main
from mlflow import MlflowClient

from mlflow_resnet.tracking.run import choose_experiment


@pytest.fixture(scope="module")
def before(tmp_path_factory, images, empty_database):
    """A folder in which a training came to its end, with its database; and the command."""
    folder = tmp_path_factory.mktemp("complete")
    options = TINY | {"epochs": 1, "checkpoint_minutes": 5, "registered_model_name": "x", "alias": "champion"}
    options |= {"train_dir": images / "train", "val_dir": images / "val", "checkpoint_dir": "saved"}
    command = ["train", *flags(options)]
    shutil.copy(empty_database, folder / "mlflow.db")
    with in_folder(folder):
        done = run_main(*command)
    assert done.returncode == 0, done.stderr
    return folder, command


@contextlib.contextmanager
def in_folder(folder):
    """In a folder, with the database that is in it."""
    uri, kept = f"sqlite:///{folder}/mlflow.db", mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        yield uri
        mlflow.set_tracking_uri(kept)


@pytest.fixture
def again(before, tmp_path):
    """What gives the command again, in a copy of the folder."""
    folder, command = before
    copy = shutil.copytree(folder, tmp_path / "copy")
    notes = copy / "saved" / "training.json"
    notes.write_text(notes.read_text().replace(f"{folder}/mlflow.db", f"{copy}/mlflow.db"))
    with in_folder(copy):
        yield lambda: run_main(*command)


def run_and_model():
    client = MlflowClient()
    (run,) = client.search_runs(["0"])
    return run.info.run_id, run.outputs.model_outputs[0].model_id


def test_all_is_there(again):
    run_id, model_id = run_and_model()
    done = again()
    assert done.returncode == 0, done.stderr
    assert f"this training is complete: run {run_id}, model models:/{model_id}" in done.stderr
    assert "models:/x/1, alias champion" in done.stdout
    assert len(mlflow.search_runs(output_format="list")) == 1


def test_registered_model_and_run_were_deleted(again):
    client, (run_id, model_id) = MlflowClient(), run_and_model()
    tags = client.get_model_version("x", "1").tags
    client.delete_registered_model("x")
    client.delete_run(run_id)
    done = again()
    assert done.returncode == 0, done.stderr
    assert f"run {run_id} was in the trash of MLflow, and is restored" in done.stderr
    assert "models:/x/1, alias champion" in done.stdout
    version = client.get_model_version_by_alias("x", "champion")
    assert (version.run_id, version.source) == (run_id, f"models:/{model_id}")
    assert "resnet18" in version.description
    assert version.tags == tags
    assert run_and_model() == (run_id, model_id)


def test_the_alias_was_given_to_another_version(again):
    client = MlflowClient()
    client.create_model_version("x", "s3://bucket/of/somebody")
    client.set_registered_model_alias("x", "champion", "2")
    done = again()
    assert done.returncode == 0, done.stderr
    assert "alias champion of x leads to version 2 by now, and stays there" in done.stderr
    assert "alias champion" not in done.stdout
    assert client.get_registered_model("x").aliases == {"champion": 2}


def test_the_alias_was_removed(again):
    MlflowClient().delete_registered_model_alias("x", "champion")
    assert "models:/x/1, alias champion" in again().stdout
    assert MlflowClient().get_registered_model("x").aliases == {"champion": 1}


@pytest.mark.slow
def test_the_model_is_gone(again):
    run_id, model_id = run_and_model()
    MlflowClient().delete_logged_model(model_id)
    done = again()
    assert done.returncode == 0, done.stderr
    assert (
        f"its model {model_id} is no longer on MLflow at {mlflow.get_tracking_uri()}, so it is done again"
        in done.stderr
    )
    assert len(mlflow.search_runs(output_format="list")) == 2
    assert MlflowClient().get_model_version_by_alias("x", "champion").run_id != run_id


@pytest.mark.slow
def test_the_database_is_another(again, empty_database):
    shutil.copy(empty_database, "mlflow.db")
    done = again()
    assert done.returncode == 0, done.stderr
    assert ", so it is done again" in done.stderr
    assert MlflowClient().get_model_version_by_alias("x", "champion").run_id == run_and_model()[0]


@pytest.mark.slow
def test_another_experiment_is_another_record(again, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    done = again()
    assert done.returncode == 0, done.stderr
    assert "complete" not in done.stderr
    assert len(mlflow.search_runs(experiment_names=["other"], output_format="list")) == 1
    assert len(mlflow.search_runs(experiment_names=["Default"], output_format="list")) == 1


def test_which_experiment_a_run_would_be_in(workdir, monkeypatch):
    assert choose_experiment(offline=False) == ""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "birds")
    assert choose_experiment(offline=False) == choose_experiment(offline=True) == "birds"
    number = MlflowClient().create_experiment("flowers")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    assert choose_experiment(offline=False) == "flowers"
    assert choose_experiment(offline=True) == number
    monkeypatch.setenv("MLFLOW_RUN_ID", MlflowClient().create_run("0").info.run_id)
    assert choose_experiment(offline=False) == ""
    with mlflow.start_run(MlflowClient().create_run(number).info.run_id):
        assert choose_experiment(offline=False) == "flowers"
