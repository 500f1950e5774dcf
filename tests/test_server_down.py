import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest

from mlflow_resnet.errors import NotDeliveredError, ServerRefusesError, ServerUnreachableError
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.tracking.outbox import Outbox
from mlflow_resnet.tracking.pieces import TagsPiece
from mlflow_resnet.tracking.run import enter_run
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


def test_a_store_in_files_that_mlflow_keeps_closed_is_told_with_what_helps(workdir, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    mlflow.set_tracking_uri(f"file://{workdir}/mlruns")
    with pytest.raises(ServerRefusesError, match=r"mlruns answers with: The filesystem") as refused:
        check_servers(registry=False)
    assert "mlflow migrate-filestore" in refused.value.message
    assert "MLFLOW_ALLOW_FILE_STORE=true" in refused.value.message


def test_databricks_without_credentials_is_told_with_what_helps(workdir, monkeypatch):
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(workdir / "none"))
    mlflow.set_tracking_uri("databricks")
    with time_limit(30), pytest.raises(ServerRefusesError, match="MLflow at databricks answers with: ") as refused:
        check_servers(registry=False)
    assert "databricks auth login" in refused.value.message
    assert "\n" not in refused.value.message


def test_a_server_that_wants_a_login(workdir):
    answering = HTTPServer(("127.0.0.1", 0), NoEntry)
    threading.Thread(target=answering.serve_forever, daemon=True).start()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{answering.server_port}")
    with pytest.raises(ServerRefusesError, match="answers with: .*401") as refused:
        check_servers(registry=False)
    answering.shutdown()
    assert len(refused.value.message) < 2000


class NoEntry(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"<html>please log in</html>" * 1000)

    do_POST = do_GET


def test_threads_that_ask_at_once_leave_the_environment_alone(workdir):
    seen = set()

    def check():
        for _ in range(20):
            with pytest.raises(ServerUnreachableError):
                check_servers(registry=True)
            seen.add(tuple(sorted(os.environ.items())))

    mlflow.set_tracking_uri("http://127.0.0.1:9")
    before = tuple(sorted(os.environ.items()))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(check), pool.submit(check)]:
            done.result()
    assert seen == {before}


@pytest.mark.slow
def test_an_outbox_learns_soon_that_the_server_hangs(workdir):
    with socket.create_server(("127.0.0.1", 0)) as silent, time_limit(40):
        mlflow.set_tracking_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
        outbox = Outbox(workdir / "outbox", Notes(run_id="of nobody"))
        with pytest.raises(NotDeliveredError, match="did not take all"), outbox.deliver_meanwhile(1, 1):
            outbox.put(TagsPiece(tags={"a": "b"}))
    assert len(outbox.pieces()) == 1


def test_a_server_that_hangs_does_not_keep_a_run_from_ending(workdir):
    def interrupt(silent):
        with enter_run("broken", {}):
            mlflow.set_tracking_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
            raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as silent, time_limit(30), pytest.raises(KeyboardInterrupt):
        interrupt(silent)
    assert mlflow.active_run() is None


def test_an_answer_that_takes_too_long():
    with time_limit(5), pytest.raises(TimeoutError, match="no answer in 0 seconds"):
        within(0.1, lambda: time.sleep(60))
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)
