import contextlib
import socket
import time

import mlflow
import pytest

from mlflow_resnet.errors import ServerUnreachableError
from mlflow_resnet.tracking.server import check_servers, within


@contextlib.contextmanager
def time_limit(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_a_server_that_takes_connections_and_says_nothing(workdir):
    with socket.create_server(("127.0.0.1", 0)) as silent, time_limit(30):
        mlflow.set_tracking_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServerUnreachableError, match="does not answer"):
            check_servers(registry=True)


def test_a_registry_that_is_down_while_tracking_is_up(workdir, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    check_servers(registry=False)
    with pytest.raises(ServerUnreachableError, match=r"MLflow at http://127.0.0.1:9 does not answer"):
        check_servers(registry=True)


@pytest.mark.parametrize("name", ["no-folder/mlflow.db", "text.db", "/proc/mlflow.db"])
def test_a_database_that_cannot_be_opened(workdir, name):
    (workdir / "text.db").write_text("not a database" * 100)
    mlflow.set_tracking_uri(f"sqlite:///{name}")
    with time_limit(10), pytest.raises(ServerUnreachableError, match="MLflow at sqlite:///"):
        check_servers(registry=False)


def test_an_answer_that_takes_too_long():
    with time_limit(5), pytest.raises(TimeoutError, match="no answer in 0 seconds"):
        within(0.1, lambda: time.sleep(60))
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)
