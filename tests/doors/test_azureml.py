"""Azure ML's server has no logged models and no aliases: trainings keep what it takes, and say once what it does not."""

import json
import shutil
import sys

import mlflow
import pandas as pd
import pytest
from azureml_proxy import azure_server
from helpers import TINY, flags, free_port, run_cli, run_main, server
from mlflow import MlflowClient

from mlflow_resnet.registry import abilities

LACKS = "has no logged models, data sets of runs, aliases, so these are left out"
ASKED = [  # each once, by one training
    "logged-models/search",
    "runs/log-inputs",
    "registered-models/alias",
]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """The address of a real MLflow server with a database of its own, which keeps artifacts too."""
    folder, port = tmp_path_factory.mktemp("upstream"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]
    with server(command, f"http://127.0.0.1:{port}/health", folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def azure(upstream, tmp_path_factory):
    """The proxy, which is the tracking server of this process and its children, in a folder of its own."""
    before = mlflow.get_tracking_uri()
    with azure_server(upstream) as between, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("azure"))
        patch.setenv("MLFLOW_TRACKING_URI", between.url)
        mlflow.set_tracking_uri(between.url)
        yield between
        mlflow.set_tracking_uri(before)


@pytest.fixture(autouse=True)
def new_process(azure):
    """What was learned of the server in an earlier test is forgotten."""
    abilities._known.clear()
    azure.requests.clear()
    yield
    abilities._known.clear()


def train_command(images, **options):
    given = TINY | {"epochs": 2, "train_dir": images / "train", "val_dir": images / "val"} | options
    return ["train", *flags(given)]


def train_registered(images, name, **options):
    """The output of a training and its version."""
    done = run_main(*train_command(images, registered_model_name=name, **options))
    assert done.returncode == 0, done.stderr
    (version,) = MlflowClient().search_model_versions(f"name = '{name}'")
    return done, version


def test_a_training_is_kept_as_far_as_the_server_can(azure, images):
    done, version = train_registered(images, "flowers", alias="champion", checkpoint_minutes=5)
    assert done.stderr.count(LACKS) == 1
    assert "does not take what is logged" not in done.stderr
    assert sorted(azure.refused) == sorted(ASKED)
    run = mlflow.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert version.source.endswith(f"{run.info.run_id}/artifacts/model")
    assert "top-1" in version.description
    assert "val_top1_accuracy" in version.tags
    assert f"runs:/{run.info.run_id}/model" in done.stdout
    assert len(MlflowClient().get_metric_history(run.info.run_id, "val_loss")) == 2
    assert run.data.tags["mlflow_resnet.data.training"].startswith("color_pictures")
    assert len(run.data.params["model_sha256.model"]) == 64
    again = run_main(*train_command(images, registered_model_name="flowers", alias="champion", checkpoint_minutes=5))
    assert again.returncode == 0, again.stderr
    assert "this training is complete" in again.stderr
    assert len(MlflowClient().search_model_versions("name = 'flowers'")) == 1
