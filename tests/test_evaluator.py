"""`mlflow.models.evaluate` with the evaluator `resnet`, and the datasets that it is given."""

import logging
import os
import shutil
import subprocess
import sys

import mlflow
import pandas as pd
import pytest
from helpers import REPORT_OF_HITS, upload, write_picture
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from mlflow_resnet.errors import (
    BadImagesError,
    ClassMismatchError,
    InvalidDatasetError,
    InvalidModelError,
    InvalidOptionsError,
)
from mlflow_resnet.evaluator import FLAVOR
from mlflow_resnet.flavor import FLAVOR_NAME
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.options import EvaluateOptions
from mlflow_resnet.tracking.data import get_dataset_images
from mlflow_resnet.verbs.evaluate import evaluate


@pytest.fixture(scope="module")
def val(trained, images):
    return mlflow.data.from_image_directory(str(images / "val"))


def evaluated(model, data, **kwargs) -> EvaluationResult:
    return mlflow.models.evaluate(model, data, **{"model_type": "classifier", "evaluators": "resnet"} | kwargs)


@pytest.fixture(scope="module")
def result(trained, val):
    return evaluated(trained.model_uri, val)


@pytest.fixture(scope="module")
def run(result):
    return mlflow.get_run(result.run_id)


def test_it_gives_the_metrics_that_the_command_gives(result, run, trained, images):
    own = evaluate(EvaluateOptions(model_uri=trained.model_uri, image_dir=str(images / "val")))
    assert result.metrics == own.metrics | own.details
    assert {name: value for name, value in run.data.metrics.items() if "system/" not in name} == result.metrics
    assert run.info.status == "FINISHED"


def test_each_metric_is_logged_once_and_tied_to_the_model_and_the_images(result, run, trained, val):
    model = mlflow.get_logged_model(trained.model_uri.removeprefix("models:/"))
    for name in ("top1_accuracy", "calibration/ece", "interval/top1_accuracy_low"):
        (metric,) = [metric for metric in model.metrics if (metric.key, metric.run_id) == (name, run.info.run_id)]
        assert (metric.value, metric.dataset_name, metric.dataset_digest) == (result.metrics[name], "val", val.digest)
        assert len(MlflowClient().get_metric_history(run.info.run_id, name)) == 1


def test_the_images_and_the_model_are_inputs_of_the_run(run, trained, val):
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("val", val.digest)
    assert '"images_per_class": {"007": 4, "blue sky": 4, "gr\\u00fcn": 4}' in data.dataset.profile
    assert [f"models:/{each.model_id}" for each in run.inputs.model_inputs] == [trained.model_uri]


def test_the_report_is_logged_and_its_tables_are_tables_for_the_ui(run):
    found = MlflowClient().list_artifacts(run.info.run_id, "evaluation")
    assert {each.path.removeprefix("evaluation/") for each in found} == REPORT_OF_HITS
    table = mlflow.load_table("evaluation/per_class.json", run_ids=[run.info.run_id])
    assert dict(zip(table["class"], table["support"], strict=True)) == {"007": 4, "blue sky": 4, "grün": 4}
    assert '"path": "evaluation/per_class.json", "type": "table"' in run.data.tags["mlflow.loggedArtifacts"]


def test_the_artifacts_of_the_result_are_the_report(result, images):
    assert set(result.artifacts) == {name.partition(".")[0] for name in REPORT_OF_HITS}
    predictions = result.artifacts["predictions"].content
    assert list(predictions["image"]) == list(list_labeled(images / "val").names)
    assert result.artifacts["per_class"].content["columns"][0] == "class"
    assert result.artifacts["confusion_matrix"].content.size[0] > 100
    uri = result.artifacts["predictions"].uri
    assert pd.read_parquet(mlflow.artifacts.download_artifacts(uri)).equals(predictions)


def test_a_result_is_saved_and_loaded_again(result, tmp_path):
    result.save(tmp_path)
    again = EvaluationResult.load(tmp_path)
    assert again.metrics == result.metrics
    assert again.artifacts["predictions"].content.equals(result.artifacts["predictions"].content)


def test_thresholds_accept_and_refuse_a_model(result):
    accuracy = MetricThreshold(threshold=0.9, greater_is_better=True)
    loss = MetricThreshold(threshold=1e-9, greater_is_better=False)
    mlflow.validate_evaluation_results({"top1_accuracy": accuracy}, result)
    with pytest.raises(ModelValidationFailedException, match="log_loss value threshold check failed"):
        mlflow.validate_evaluation_results({"top1_accuracy": accuracy, "log_loss": loss}, result)
    better = MetricThreshold(min_absolute_change=0.01, greater_is_better=True)
    with pytest.raises(ModelValidationFailedException, match="macro_f1 minimum absolute change check failed"):
        mlflow.validate_evaluation_results({"macro_f1": better}, result, baseline_result=result)


def test_models_are_found_by_the_images_they_were_measured_on(result, trained, val):
    def found(digest):
        data = [{"dataset_name": "val", "dataset_digest": digest}]
        filter_string = "metrics.`calibration/ece` >= 0"
        models = mlflow.search_logged_models(filter_string=filter_string, datasets=data, output_format="list")
        return [f"models:/{model.model_id}" for model in models]

    assert trained.model_uri in found(val.digest)
    assert found("0" * 16) == []


def test_a_registered_model_is_tied_to_its_metrics_too(trained, val):
    result = evaluated("models:/colors@champion", val)
    run = mlflow.get_run(result.run_id)
    assert [f"models:/{each.model_id}" for each in run.inputs.model_inputs] == [trained.model_uri]
    model = mlflow.get_logged_model(trained.model_uri.removeprefix("models:/"))
    metrics = {metric.key: metric for metric in model.metrics if metric.run_id == result.run_id}
    assert set(metrics) == set(result.metrics)
    assert metrics["top1_accuracy"].dataset_digest == val.digest


def test_a_model_that_is_no_logged_model_is_measured_in_a_run_of_the_callers(trained, val, tmp_path):
    from mlflow_resnet.flavor import save_model

    save_model(trained.classifier, tmp_path / "model")
    with mlflow.start_run() as run:
        result = evaluated(mlflow.pyfunc.load_model(str(tmp_path / "model")), val)
        assert result.run_id == run.info.run_id
    assert mlflow.get_run(run.info.run_id).data.metrics["top1_accuracy"] == result.metrics["top1_accuracy"]


def test_a_table_of_paths_and_labels_is_measured_like_the_folders(result, trained, images):
    folders = list_labeled(images / "val")
    table = pd.DataFrame({"path": folders.paths, "truth": folders.labels, "camera": "left"})
    data = mlflow.data.from_pandas(table.drop(columns="camera"), targets="truth", name="table")
    of_table = evaluated(trained.model_uri, data)
    assert of_table.metrics == result.metrics
    assert list(of_table.artifacts["predictions"].content["image"]) == list(folders.paths)
    (logged,) = mlflow.get_run(of_table.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("table", data.digest)
    shuffled = evaluated(trained.model_uri, table.iloc[::-1], targets="truth", feature_names=["path"])
    assert shuffled.metrics["top1_accuracy"] == result.metrics["top1_accuracy"]


@pytest.mark.parametrize("targets", [[0, 1], [0.0, 1.0], ["0", "1"]])
def test_targets_are_called_as_the_class_folders_of_such_labels(targets):
    table = pd.DataFrame({"path": ["a.png", "b.png"], "truth": targets})
    data = mlflow.data.from_pandas(table, targets="truth").to_evaluation_dataset()
    assert get_dataset_images(data).directory.labels == ("0", "1")
    table = pd.DataFrame({"path": ["a.png", "b.png"], "truth": [1, None]})
    data = mlflow.data.from_pandas(table, targets="truth").to_evaluation_dataset()
    with pytest.raises(InvalidDatasetError, match="has no target in row 2; leave that row out"):
        get_dataset_images(data)


def test_a_table_without_a_column_of_paths_is_refused(trained, images):
    table = pd.DataFrame({"path": ["1.jpg"], "camera": "left", "truth": "007"})
    with pytest.raises(InvalidDatasetError, match="dataset: has 'path', 'camera' beside the targets; give one column"):
        evaluated(trained.model_uri, table, targets="truth")
    with pytest.raises(InvalidDatasetError, match="dataset: has 7 among its images; give paths of files"):
        evaluated(trained.model_uri, pd.DataFrame({"path": [7], "truth": "007"}), targets="truth")
    with pytest.raises(BadImagesError, match=r"dataset: 1 unreadable image: 1.jpg \(no such file\)"):
        evaluated(trained.model_uri, table, targets="truth", feature_names=["path"])


def test_bad_images_stop_it_or_are_left_out(trained, images, tmp_path):
    folders = shutil.copytree(images / "val", tmp_path / "val")
    (folders / "007" / "bad.png").write_bytes(b"no picture")
    data = mlflow.data.from_image_directory(str(folders))
    with pytest.raises(BadImagesError, match="1 unreadable image: 007/bad.png"):
        evaluated(trained.model_uri, data)
    result = evaluated(trained.model_uri, data, evaluator_config={"on_bad_image": "skip", "batch_size": 5})
    assert len(result.artifacts["predictions"].content) == 12
    assert data.digest == mlflow.data.from_image_directory(str(images / "val")).digest


def test_unknown_classes_are_named_and_the_run_fails(trained, tmp_path):
    write_picture(tmp_path / "owl" / "1.png", (0, 0, 0), 1)
    with pytest.raises(ClassMismatchError, match="class folders 'owl' are unknown to the model"):
        evaluated(trained.model_uri, mlflow.data.from_image_directory(str(tmp_path)))
    assert mlflow.last_active_run().info.status == "FAILED"


def test_a_model_that_predicts_with_another_backend_is_not_measured_by_torch(trained, images):
    config = {"backend": "openvino", "precision": "fp32"}
    model = mlflow.pyfunc.load_model(trained.model_uri, model_config=config)
    with pytest.raises(
        InvalidOptionsError, match="the model predicts with openvino; `mlflow-resnet evaluate` measures"
    ):
        evaluated(model, mlflow.data.from_image_directory(str(images / "val")))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (
            {"batchsize": 8},
            "'batchsize'; it may have tta, resolution, batch_size, on_bad_image, device, precision, num_workers",
        ),
        ({"batch_size": "8"}, "batch_size is '8'; it must be of type int"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"on_bad_image": "ignore"}, "on_bad_image is 'ignore'; choose one of error, skip"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_a_wrong_configuration_is_explained(trained, val, config, complaint):
    with pytest.raises(InvalidOptionsError, match=complaint):
        evaluated(trained.model_uri, val, evaluator_config=config)


def test_metrics_of_the_callers_own_are_refused(trained, val):
    metric = mlflow.models.make_metric(eval_fn=lambda predictions, targets: 1.0, name="mine", greater_is_better=True)
    with pytest.raises(InvalidOptionsError, match="the evaluator resnet takes no extra_metrics"):
        evaluated(trained.model_uri, val, extra_metrics=[metric])


def anothers(frame: pd.DataFrame) -> pd.Series:
    """A model that says the name of the image's folder."""
    return frame["image"].map(lambda path: os.path.basename(os.path.dirname(path))).astype(object)


def test_anothers_model_is_refused_if_this_evaluator_was_named(val, tmp_path):
    assert FLAVOR == FLAVOR_NAME
    with pytest.raises(
        InvalidModelError, match="model: it is not a saved model; the evaluator resnet measures those of"
    ):
        evaluated(anothers, val)
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=anothers, pip_requirements=["mlflow"])
    with pytest.raises(InvalidModelError, match="model: its flavors are python_function; the evaluator resnet"):
        evaluated(str(tmp_path / "model"), val)


@pytest.mark.parametrize("evaluators", [None, "default"])
def test_anothers_model_is_measured_by_mlflows_evaluators_as_before(val, evaluators):
    config = {"log_model_explainability": False}
    result = evaluated(anothers, val, evaluators=evaluators, evaluator_config=config)
    assert result.metrics["accuracy_score"] == 1.0
    assert "top1_accuracy" not in result.metrics


@pytest.mark.parametrize(
    "changes", [{}, {"predictions": "Scored Labels"}, {"evaluator_config": {"resnet": {"batch_size": 12}}}]
)
def test_without_a_named_evaluator_a_model_of_ours_is_measured_as_with_it(result, trained, images, val, changes):
    folders = list_labeled(images / "val")
    table = pd.DataFrame({"path": folders.paths, "label": folders.labels})
    of_table = evaluated(trained.model_uri, table, targets="label", evaluators=None, **changes)
    assert of_table.metrics == pytest.approx(result.metrics)
    assert set(of_table.artifacts) == set(result.artifacts)
    if not changes:
        assert evaluated(trained.model_uri, val, evaluators=None).metrics == result.metrics


def test_mlflows_own_evaluators_say_that_they_leave_it(trained, val, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("mlflow_resnet"), "propagate", True)
    with pytest.raises(MlflowException, match="could not be evaluated by any of the registered evaluators"):
        evaluated(trained.model_uri, val, evaluators="default")
    assert "MLflow's evaluator classifier leaves this model to evaluators='resnet'" in caplog.text


@pytest.mark.slow
def test_anothers_model_is_measured_without_torch(workdir):
    code = """
import sys
import mlflow, pandas
table = pandas.DataFrame({"x": ["a", "b"], "y": ["a", "b"]}).astype(object)
config = {"log_model_explainability": False}
same = lambda frame: frame["x"]
result = mlflow.models.evaluate(same, table, targets="y", model_type="classifier", evaluator_config=config)
assert result.metrics["accuracy_score"] == 1
assert "resnet" in mlflow.models.list_evaluators() and "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_regression_is_left_to_others(trained):
    table = pd.DataFrame({"x": [1.0, 2.0], "y": [2.0, 4.0]})
    double = lambda frame: frame["x"] * 2  # noqa: E731
    config = {"log_model_explainability": False}
    result = mlflow.models.evaluate(double, table, targets="y", model_type="regressor", evaluator_config=config)
    assert result.metrics["root_mean_squared_error"] == 0


def logged_as_input(data) -> mlflow.entities.Dataset:
    """What another process reads of a dataset that a run was given."""
    with mlflow.start_run() as run:
        mlflow.log_input(data)
    (logged,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    return logged.dataset


@pytest.mark.parametrize("name", ["folder of pictures", "50% off", "a:b", "q?y=1"])
def test_a_runs_record_leads_back_to_a_local_folder_from_anywhere(tracking, images, tmp_path, monkeypatch, name):
    shutil.copytree(images / "val", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    logged = logged_as_input(mlflow.data.from_image_directory(name))
    monkeypatch.chdir("/")
    assert (logged.name, logged.source_type) == (name.replace(" ", "_"), "local")
    assert mlflow.data.get_source(logged).load() == str(tmp_path / name)


def test_a_runs_record_leads_back_to_a_prefix_in_s3(trained, images, s3):
    uri = upload(s3, images / "val", "pictures in s3")
    data = mlflow.data.from_image_directory(uri)
    assert data.digest == mlflow.data.from_image_directory(str(images / "val")).digest
    result = evaluated(trained.model_uri, data)
    (logged,) = mlflow.get_run(result.run_id).inputs.dataset_inputs
    assert (logged.dataset.source_type, logged.dataset.source) == ("s3", f'{{"uri": "{uri}"}}')
    copied = mlflow.data.get_source(logged.dataset).load()
    assert mlflow.data.from_image_directory(copied).digest == data.digest
    assert [each.path for each in MlflowClient().list_artifacts(result.run_id, "manifests")] == [
        "manifests/evaluation.csv"
    ]


def test_names_that_mlflow_or_unicode_refuse_do_no_harm(trained, images, tmp_path):
    folders = shutil.copytree(images / "val", tmp_path / 'say "cheese"')
    os.rename(folders / "007" / "00.jpg", os.path.join(os.fsencode(folders / "007"), b"\xff.jpg"))
    result = evaluated(trained.model_uri, mlflow.data.from_image_directory(str(folders)))
    assert "007/\\xff.jpg" in set(result.artifacts["predictions"].content["image"])
    (logged,) = mlflow.get_run(result.run_id).inputs.dataset_inputs
    assert logged.dataset.name == 'say_"cheese"'
