"""MLflow's store in files, ./mlruns, which splits its lines at spaces."""

import mlflow
import pytest
from helpers import TINY, flags, run_main, write_class_folders
from mlflow import MlflowClient

from mlflow_resnet.io.notes import Notes
from mlflow_resnet.tracking.dataset import from_image_directory, name_for_stores
from mlflow_resnet.tracking.pieces import MetricsPiece, Point
from mlflow_resnet.tracking.record import Recorder


@pytest.fixture
def file_store(tmp_path, monkeypatch):
    """A working directory with ./mlruns and nothing else; it holds a run."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    with mlflow.start_run(run_name="my old run"):
        mlflow.log_metric("accuracy", 0.9)
    yield tmp_path
    mlflow.set_tracking_uri(before)


def point(**values):
    return Point(values, step=7, time=1, dataset=["my photos (training part)", "abc"], of_model=False)


def test_metrics_of_a_folder_with_spaces_that_waited_can_be_read(file_store):
    run_id = MlflowClient().create_run("0").info.run_id
    Recorder(Notes(run_id=run_id)).put(MetricsPiece(points=[point(val_loss=0.5)]))
    (metric,) = MlflowClient().get_metric_history(run_id, "val_loss")
    assert (metric.step, metric.value) == (7, 0.5)
    assert len(mlflow.search_runs(output_format="list")) == 2


@pytest.mark.slow
def test_a_training_on_a_folder_with_spaces(file_store):
    write_class_folders(file_store / "my photos", 5)
    done = run_main("train", *flags(TINY | {"train_dir": "my photos", "registered_model_name": "x"}))
    assert done.returncode == 0, done.stderr
    assert len(mlflow.search_runs(output_format="list")) == 2
    (model,) = mlflow.search_logged_models(output_format="list")
    history = MlflowClient().get_metric_history(model.source_run_id, "val_loss")
    assert [point.step for point in history] == [1, 2]
    names = {each.dataset.name for each in mlflow.get_run(model.source_run_id).inputs.dataset_inputs}
    assert names == {"my_photos-training", "my_photos-validation"}


@pytest.mark.parametrize(
    ("given", "name"), [("my photos", "my_photos"), (" a\t\u2003b\n", "a_b"), ("", "images"), ("grün", "grün")]
)
def test_names_for_stores(given, name):
    assert name_for_stores(given) == name


def test_a_data_set_with_a_name_of_the_users_own(tmp_path):
    write_class_folders(tmp_path / "my photos", 1)
    assert from_image_directory(str(tmp_path / "my photos")).name == "my_photos"
    assert from_image_directory(str(tmp_path / "my photos"), name="of last year").name == "of_last_year"
