import os

import mlflow
import pytest
from helpers import REPORT_OF_HITS, TINY, mlflow_server
from mlflow import MlflowClient

from mlflow_resnet.options import TrainOptions
from mlflow_resnet.verbs.train import train


@pytest.fixture(scope="module")
def run(trained):
    return MlflowClient().get_run(trained.run_id)


def test_params_are_the_options(run, images):
    assert run.data.params["architecture"] == "resnet18"
    assert run.data.params["train_dir"] == str(images / "train")
    assert run.data.params["torch_threads"].isdigit()


def test_the_run_is_named_after_the_data_set_and_not_its_part(run, images):
    assert run.info.run_name == f"resnet18 on {images.name}"


def test_metrics_have_a_point_per_epoch(trained):
    for name in ("train_loss", "train_images_per_second", "learning_rate", "val_top1_accuracy", "val_loss"):
        steps = [point.step for point in MlflowClient().get_metric_history(trained.run_id, name)]
        assert steps == list(range(1, len(steps) + 1)), name
        assert steps, name


def test_system_metrics_are_logged(run):
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0


def test_top5_is_left_out_where_it_says_nothing(run):
    assert "val_top5_accuracy" not in run.data.metrics


def test_data_sets_have_digest_counts_and_source(run, images):
    inputs = {i.dataset.name: i for i in run.inputs.dataset_inputs}
    assert {name: i.tags[0].value for name, i in inputs.items()} == {"train": "training", "val": "validation"}
    assert '"images_per_class": {"007": 8, "blue sky": 8, "gr\\u00fcn": 8}' in inputs["train"].dataset.profile
    assert inputs["train"].dataset.source == f'{{"uri": "{images / "train"}"}}'
    assert inputs["train"].dataset.digest == mlflow.data.from_image_directory(str(images / "train")).digest


def test_the_model_is_linked_to_the_best_epochs_metrics_and_their_data(trained, run):
    model = mlflow.get_logged_model(trained.model_uri.removeprefix("models:/"))
    values = {(m.key, m.dataset_name): m.value for m in model.metrics}
    assert values["val_top1_accuracy", "val"] == trained.metrics["val_top1_accuracy"]
    assert values["val_loss", "val"] == pytest.approx(trained.metrics["val_loss"])
    assert values["val_macro_f1", "val"] == 1.0
    assert not [key for key, _ in values if key.startswith("system/")]
    assert [(o.model_id, o.step) for o in run.outputs.model_outputs] == [(model.model_id, trained.best_epoch)]
    assert model.status.name == "READY"
    assert model.params["architecture"] == "resnet18"
    flavors = mlflow.models.get_model_info(f"models:/{model.model_id}").flavors
    assert model.params["model_sha256"] == flavors["mlflow_resnet"]["model_sha256"]


def test_a_model_is_found_by_its_accuracy_on_a_data_set(trained):
    found = mlflow.search_logged_models(
        filter_string="metrics.val_top1_accuracy >= 1", datasets=[{"dataset_name": "val"}], output_format="list"
    )
    assert trained.model_uri in [f"models:/{model.model_id}" for model in found]


def test_pictures_and_tables_are_logged(trained, tmp_path):
    from PIL import Image

    client = MlflowClient()
    assert {a.path for a in client.list_artifacts(trained.run_id)} >= {"training_images.png", "validation"}
    assert {
        a.path.removeprefix("validation/") for a in client.list_artifacts(trained.run_id, "validation")
    } == REPORT_OF_HITS
    gallery = mlflow.artifacts.download_artifacts(run_id=trained.run_id, artifact_path="training_images.png")
    assert Image.open(gallery).size == (8 * 34 + 2, 2 * 34 + 2)
    table = mlflow.load_table("validation/per_class.json", run_ids=[trained.run_id])
    assert dict(zip(table["class"], table["support"], strict=True)) == {"007": 4, "blue sky": 4, "grün": 4}


def test_the_description_says_what_was_trained_on_what(run, images):
    card = run.data.tags["mlflow.note.content"]
    assert "resnet18, 100.00% of 12 validation images right" in card
    assert "| training | 24 | " in card
    assert "3 classes: `007`, `blue sky`, `grün`." in card
    assert str(images / "train") in card
    assert "Starting from random weights." in card


def test_the_version_is_registered_with_alias_and_description(trained):
    version = MlflowClient().get_model_version_by_alias("colors", "champion")
    assert version.run_id == trained.run_id
    assert version.source == trained.model_uri
    assert "resnet18" in version.description


def test_a_callers_own_run_is_used_and_left_open(workdir, images):
    with mlflow.start_run() as own:
        options = TINY | {"epochs": 1}
        result = train(TrainOptions(train_dir=str(images / "train"), val_dir=str(images / "val"), **options))
        assert result.run_id == own.info.run_id
        assert mlflow.active_run().info.run_id == own.info.run_id
    assert mlflow.get_run(own.info.run_id).info.status == "FINISHED"


@pytest.mark.slow  # tests/gate/test_commands.py has one by default
def test_train_against_a_real_tracking_server(workdir, images):
    with mlflow_server(workdir / "server") as url:
        mlflow.set_tracking_uri(url)
        os.environ["MLFLOW_TRACKING_URI"] = url
        result = train(
            TrainOptions(
                train_dir=str(images / "train"),
                registered_model_name="over-http",
                alias="champion",
                **TINY | {"epochs": 1},
            )
        )
        model = mlflow.pyfunc.load_model("models:/over-http@champion")
        assert len(model.predict(str(images / "val"))) == 12
        assert mlflow.get_run(result.run_id).info.status == "FINISHED"
