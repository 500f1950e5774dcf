"""Real image folders, a real model trained on them, real servers. Nothing of MLflow, torch or S3 is mocked."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow's processes call python
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other, where two threads wait for each other

import pytest  # noqa: E402
from helpers import ROOT, TINY, free_port, give_back_process, server, unchanged, write_class_folders  # noqa: E402
from tiers import (  # noqa: E402, F401
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_protocol,
    pytest_terminal_summary,
)


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory) -> None:
    """What users have in ~/.cache is neither read nor written."""
    os.environ["MLFLOW_RESNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def clean_checkout() -> Iterator[None]:
    """No test leaves in the checkout what MLflow and our commands write where they are called."""
    before = set(os.listdir(ROOT))
    yield
    assert not (set(os.listdir(ROOT)) - before) & {"mlflow.db", "mlruns", "mlartifacts", "checkpoints"}


@pytest.fixture(autouse=True)
def not_serving() -> Iterator[None]:
    """Loading as `serve` does has this process serve from then on; the next test does not."""
    from mlflow_resnet.scoring.over_http import servers
    from mlflow_resnet.scoring.over_http.guard import SERVING_SWITCHES

    yield
    servers._reasons.clear()
    for name in SERVING_SWITCHES:
        os.environ.pop(name, None)


@pytest.fixture
def own_process() -> Iterator[None]:
    """This process is a command of ours, and for the next test that of a caller again."""
    from mlflow_resnet.io.process import claim_process

    with give_back_process():
        claim_process()
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Iterator[Path]:
    """`train` with 8 pictures per class and `val` with 4, for reading only."""
    root = tmp_path_factory.mktemp("color pictures")
    write_class_folders(root / "train", 8)
    write_class_folders(root / "val", 4, first_seed=100)
    with unchanged(root):
        yield root


@pytest.fixture(scope="session")
def tracking(tmp_path_factory) -> Iterator[str]:
    """The URI of a tracking database for the whole session, set for this process and its children."""
    import mlflow

    folder = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = os.getcwd()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    os.chdir(folder)  # artifacts go to ./mlruns
    yield uri
    os.chdir(before)


@pytest.fixture(scope="session")
def trained(tracking, images):
    """A model trained in this process and registered as `colors`, alias `champion`."""
    from mlflow_resnet.options import TrainOptions
    from mlflow_resnet.verbs.train import train

    options = TrainOptions(
        train_dir=str(images / "train"),
        val_dir=str(images / "val"),
        registered_model_name="colors",
        alias="champion",
        **TINY | {"epochs": 8},
    )
    return train(options)


@pytest.fixture(scope="session")
def trained_weights(trained, tmp_path_factory) -> str:
    """The state_dict of `trained` as a file, which a run on another tracking server can start from."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "colors.pth"
    torch.save(trained.classifier.network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def served(trained, tmp_path_factory) -> str:
    """The URL of `mlflow models serve` for the champion."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/colors@champion"]
    command += ["--port", str(port), "--env-manager", "local"]
    with server(command, f"{url}/ping", tmp_path_factory.mktemp("serving")):
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A boto3 client of a real S3 server with an empty bucket `bucket`; the environment leads everybody there."""
    import boto3

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    variables = {
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(variables)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with server(command, f"{endpoint}/moto-api/data.json", tmp_path_factory.mktemp("moto")):
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="bucket")
        yield client
    for name in variables:
        del os.environ[name]


@pytest.fixture
def prefix(s3, request) -> str:
    """Of objects in the bucket: one that no other test uses."""
    return f"{request.module.__name__}/{request.node.name}"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables and nothing in them, to be copied; making the tables takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    before = os.getcwd()
    os.chdir(path.parent)  # where artifacts will go is written into the database
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    os.chdir(before)
    return path


@pytest.fixture
def workdir(tmp_path, monkeypatch, empty_database) -> Iterator[Path]:
    """A working directory with nothing but a tracking database of its own."""
    import mlflow

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    yield tmp_path
    mlflow.set_tracking_uri(before)
