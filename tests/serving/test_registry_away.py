"""A registry that dies, or keeps waiting, while clients ask a server that follows it."""

import contextlib
import threading

import mlflow
import pytest
from helpers import free_port, mlflow_server, wait_for
from mlflow import MlflowClient
from proxy import faulty
from served import Load, Registry, serving

pytestmark = pytest.mark.slow


@pytest.fixture
def use_server(workdir, monkeypatch):
    def use(uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)

    return use


@contextlib.contextmanager
def loaded(folder, name):
    """A registry with the champion 1 and a version 2, a server that follows it, and clients that ask that."""
    registry = Registry(name, {})
    for seed in (1, 2):
        registry.add(seed)
    registry.move("1")
    with (
        serving(folder, name, "--follow", "--poll-seconds", "0.5", seconds=180) as running,
        Load(running, registry, clients=4) as load,
    ):
        yield registry, running, load


def wait_for_answers(load):
    before = load.answered
    wait_for(lambda: load.answered > before + 20)


def test_a_registry_that_dies_and_comes_back(tmp_path, use_server):
    port = free_port()
    use_server(f"http://127.0.0.1:{port}")
    with contextlib.ExitStack() as at_end:
        with mlflow_server(tmp_path / "registry", port=port, seconds=180):
            registry, running, load = at_end.enter_context(loaded(tmp_path, "remote colors"))
        running.wait_until(lambda model: model["follow"]["last_error"])
        error = running.model()["follow"]["last_error"]
        assert error.startswith("where @champion of remote colors points is not known")
        assert "http://" not in error
        wait_for_answers(load)
        with mlflow_server(tmp_path / "registry", port=port, seconds=180):
            running.wait_until(lambda model: model["follow"]["last_error"] is None)
            registry.move("2")
            running.wait_until(lambda model: model["version"] == "2")
            wait_for_answers(load)
            assert MlflowClient().get_model_version_by_alias(registry.name, "champion").version == "2"
    assert load.failures == []


class Stall:
    """Has a proxy keep requests waiting whose path has some part."""

    def __init__(self):
        self.part, self.begun, self._is_over = "", threading.Event(), threading.Event()

    def __call__(self, method, path):
        if self.part and self.part in path:
            self.begun.set()
            self._is_over.wait(300)
        return ""

    @contextlib.contextmanager
    def of(self, part):
        self.begun.clear()
        self._is_over.clear()
        self.part = part
        try:
            yield
        finally:
            self.part = ""
            self._is_over.set()


def test_a_registry_that_keeps_waiting_changes_nothing(tmp_path, use_server):
    stall = Stall()
    with (
        mlflow_server(tmp_path / "registry", "--artifacts-destination", "artifacts", seconds=180) as upstream,
        faulty(upstream, stall) as proxy,
    ):
        use_server(proxy.url)
        with loaded(tmp_path, "slow colors") as (registry, running, load):
            for part in ("/health", "/alias"):  # all that is asked, or only what is asked after that
                with stall.of(part):
                    running.wait_until(lambda model: model["follow"]["last_error"])
                    error = running.model()["follow"]["last_error"]
                    assert error == "where @champion of slow colors points is not known"
                    wait_for_answers(load)
                running.wait_until(lambda model: model["follow"]["last_error"] is None)
            with stall.of("/mlflow-artifacts/"):
                registry.move("2")
                assert stall.begun.wait(60)
                wait_for_answers(load)
                registry.move("1")
            asked = len(proxy.requests)
            wait_for(lambda: sum("/alias" in path for _, path, _ in proxy.requests[asked:]) > 4)
        assert {version for seen in load.versions for version in seen} == {"1"}
    assert load.failures == []
