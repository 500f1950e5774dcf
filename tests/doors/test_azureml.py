"""Azure ML has no logged models and no aliases: trainings keep what it takes, and say once what it does not."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from helpers import TINY, flags, free_port, mlflow_server, run_main, server, start_cli, wait_for
from mlflow import MlflowClient
from proxy import faulty

import mlflow_resnet
from doors.azureml_proxy import azure_server
from mlflow_resnet.client import score_images
from mlflow_resnet.errors import TamperedModelError
from mlflow_resnet.registry import abilities
from mlflow_resnet.registry.abilities import Ability, has

LACKS = "has no logged models, data sets of runs, aliases, so these are left out"
ASKED = [  # each once, by one training
    "logged-models/search",
    "runs/log-inputs",
    "registered-models/alias",
]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """The address of a real MLflow server with a database of its own, which keeps artifacts too."""
    with mlflow_server(tmp_path_factory.mktemp("upstream")) as url:
        yield url


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
    for learned in (abilities._known, abilities._told):
        learned.clear()
    azure.requests.clear()
    yield
    for learned in (abilities._known, abilities._told):
        learned.clear()


def train_command(images, **options):
    given = TINY | {"train_dir": images / "train", "val_dir": images / "val"} | options
    return ["train", *flags(given)]


def find_only_version(name):
    (version,) = MlflowClient().search_model_versions(f"name = '{name}'")
    return version


@pytest.fixture(scope="module")
def version(azure, images):
    """A version of `flowers` that a training registered; what it said is `version.said`."""
    azure.requests.clear()
    done = run_main(*train_command(images, registered_model_name="flowers", alias="champion", checkpoint_minutes=5))
    assert done.returncode == 0, done.stderr
    version = find_only_version("flowers")
    version.said, version.refused = done.stdout + done.stderr, azure.refused
    return version


def download(run_id, folder):
    """The folder of the model of a run."""
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="model", dst_path=str(folder)))


def test_a_training_is_kept_as_far_as_the_server_can(version):
    assert version.said.count(LACKS) == 1
    assert "does not take what is logged" not in version.said
    assert sorted(version.refused) == sorted(ASKED)
    run = mlflow.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert version.source.endswith(f"{run.info.run_id}/artifacts/model")
    assert "validation images right" in version.description
    assert "val_top1_accuracy" in version.tags
    assert f"runs:/{run.info.run_id}/model" in version.said
    assert len(MlflowClient().get_metric_history(run.info.run_id, "val_loss")) == 2
    assert run.data.tags["mlflow_resnet.data.training"].startswith("train ")


def test_the_same_command_again_knows_that_it_is_complete(version, images):
    again = run_main(*train_command(images, registered_model_name="flowers", alias="champion", checkpoint_minutes=5))
    assert again.returncode == 0, again.stderr
    assert "this training is complete" in again.stderr, again.stderr
    assert find_only_version("flowers").version == version.version


@pytest.mark.parametrize("uri", ["models:/flowers/1", "runs:/{run_id}/model"])
def test_a_version_is_scored_and_evaluated(uri, version, images, tmp_path):
    uri, output = uri.format(run_id=version.run_id), tmp_path / "scored.parquet"
    images = ["--image-dir", images / "val"]
    scored = run_main("score", "--model-uri", uri, *images, "--output", output)
    assert scored.returncode == 0, scored.stderr
    assert len(pd.read_parquet(output)) == 12
    evaluated = run_main("evaluate", "--model-uri", uri, *images)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "left out" not in scored.stderr
    assert evaluated.stderr.count("so these are left out") == 1


def test_a_version_is_served(version, images, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "mlflow_resnet", "serve", "models:/flowers/1", "--port", str(port)]
    with server(command, f"http://127.0.0.1:{port}/ping", tmp_path):
        scored = score_images(f"http://127.0.0.1:{port}", sorted((images / "val").rglob("*.jpg")))
    assert len(scored) == 12
    assert not any(scored["error"])


def test_what_needs_an_alias_says_so_in_one_line(version, images):
    for command, said in {
        ("promote", "--model-uri", "models:/flowers/1", "--image-dir", images / "val"): "which promote needs",
        ("rollback", "--name", "flowers"): "which rollback needs",
        ("champion", "--name", "flowers"): "the registry has no aliases; give a version, such as models:/flowers/1",
        ("serve", "models:/flowers@champion"): "the registry has no aliases; give a version",
    }.items():
        done = run_main(*command)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert "left out" not in done.stderr


def test_a_version_can_be_measured_without_an_alias(version, images):
    done = run_main(
        *("promote", "--model-uri", "models:/flowers/1", "--image-dir", images / "val", "--measure-only", "true")
    )
    assert done.returncode == 0, done.stderr
    assert any("evidence" in tag for tag in find_only_version("flowers").tags)


def test_artifacts_that_were_changed_are_refused_however_they_are_named(version, upstream, tmp_path):
    folder = download(version.run_id, tmp_path)
    description = folder / "data" / "classifier.json"
    facts = json.loads(description.read_text())
    changed = json.dumps(facts | {"temperature": 3.0})
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    del mlmodel["flavors"]["mlflow_resnet"]["model_sha256"]  # whoever can write artifacts can write this too
    try:
        replace_artifact(version, "data/classifier.json", changed)
        replace_artifact(version, "MLmodel", yaml.safe_dump(mlmodel))
        downloaded = download(version.run_id, tmp_path / "again")
        for uri in ("models:/flowers/1", f"runs:/{version.run_id}/model", str(downloaded)):
            with pytest.raises(TamperedModelError, match=f"its run {version.run_id} has"):
                mlflow_resnet.load_model(uri)
    finally:
        MlflowClient().log_artifacts(version.run_id, str(folder), "model")
    mlflow_resnet.load_model("models:/flowers/1")


def replace_artifact(version, name, text):
    mlflow.MlflowClient().log_text(version.run_id, text, f"model/{name}")


def test_a_digest_of_a_run_cannot_be_changed(version):
    with pytest.raises(mlflow.MlflowException, match="Changing param values is not allowed"):
        MlflowClient().log_param(version.run_id, "model_sha256.model", "0" * 64)


@pytest.mark.slow
def test_an_offline_training_with_models_of_epochs_is_delivered(azure, images, tmp_path):
    options = {"checkpoint_dir": tmp_path / "saved", "checkpoint_minutes": 5, "epoch_models": True, "offline": True}
    done = run_main(*train_command(images, registered_model_name="kept", alias="champion", **options))
    assert done.returncode == 0, done.stderr
    assert azure.requests == []
    synced = run_main("sync", tmp_path / "saved")
    assert synced.returncode == 0, synced.stderr
    assert synced.stderr.count(LACKS) == 1
    kept = find_only_version("kept")
    params = mlflow.get_run(kept.run_id).data.params
    assert {name for name in params if name.startswith("model_sha256.")} == {
        "model_sha256.epoch-1",
        "model_sha256.epoch-2",
        "model_sha256.model",
    }
    for name in ("model", "epoch-1", "epoch-2"):
        mlflow_resnet.load_model(f"runs:/{kept.run_id}/{name}")


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on(azure, images, tmp_path):
    options = {"checkpoint_dir": tmp_path / "saved", "checkpoint_minutes": 0.0001, "epochs": 12}
    command = train_command(images, registered_model_name="resumed", **options)
    with start_cli(*command) as process:
        wait_for(lambda: "metrics" in str(azure.requests) or "epoch 3" in process.stderr.readline(), process=process)
        process.kill()
        process.wait()
    done = run_main(*command)
    assert done.returncode == 0, done.stderr
    assert "going on from the checkpoint" in done.stderr
    resumed = find_only_version("resumed")
    steps = [metric.step for metric in MlflowClient().get_metric_history(resumed.run_id, "val_loss")]
    assert steps == list(range(1, 13))
    mlflow_resnet.load_model("models:/resumed/1")


def test_a_model_is_logged_from_python_and_exported(version, azure, images, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_SERVING", "false")  # the imitation of Azure ML listens in this process
    with mlflow.start_run() as run:
        info = mlflow_resnet.log_model(
            mlflow_resnet.load_model("models:/flowers/1"), name="mine", registered_model_name="logged", step=3
        )
    assert (info.model_uri, str(info.registered_model_version)) == (f"runs:/{run.info.run_id}/mine", "1")
    assert find_only_version("logged").run_id == run.info.run_id
    frame = mlflow.pyfunc.load_model("models:/logged/1").predict(str(images / "val"))
    assert len(frame) == 12
    assert mlflow.get_run(run.info.run_id).data.params["model_sha256.mine"]


def test_a_server_that_fails_is_not_taken_for_one_that_lacks_something(upstream, azure, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    spoiled = ["503"]
    with faulty(upstream, lambda method, path: spoiled[0] if "logged-models" in path else "") as between:
        mlflow.set_tracking_uri(between.url)
        with pytest.raises(mlflow.MlflowException, match="503"):
            has(Ability.LOGGED_MODELS)
        spoiled[0] = ""
        assert has(Ability.LOGGED_MODELS)
        mlflow.set_tracking_uri(azure.url)


def test_a_gateway_without_a_server_behind_it_lacks_nothing(azure, monkeypatch):
    nothing = ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=nothing.serve_forever, daemon=True).start()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{nothing.server_port}")
    with pytest.raises(mlflow.MlflowException, match="experiments/search failed with error code 404"):
        has(Ability.LOGGED_MODELS)
    mlflow.set_tracking_uri(azure.url)
    nothing.shutdown()


class NotFound(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_error(404)

    do_GET = do_POST
