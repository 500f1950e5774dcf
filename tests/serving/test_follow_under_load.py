"""Champions that change, registries that die and signals that come while many clients ask."""

import contextlib
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import mlflow
import psutil
import pytest
import requests
from helpers import free_port, server, wait_for
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families
from served import Registry, serving

pytestmark = pytest.mark.slow
CLIENTS = 32
CHANGES = ["2", "3", "1", "2", "1", "3", "2", "1", "3", "2"]  # forwards and back


@pytest.fixture(scope="module")
def registry(tracking):
    registry = Registry("loaded colors", {})
    for seed in (1, 2, 3):
        registry.add(seed)
    return registry


@pytest.fixture
def start(registry, tmp_path):
    """Starts a server of version 1."""
    registry.move("1")
    return lambda *arguments, **env: serving(tmp_path, registry.name, *arguments, **env)


class Load:
    """Clients that ask all the time; what they got."""

    def __init__(self, running, registry, clients=CLIENTS):
        self.running, self.registry = running, registry
        self.failures, self.versions, self.answered = [], [], 0
        self._stop, self._clients = threading.Event(), clients

    def __enter__(self):
        self._pool = ThreadPoolExecutor(self._clients)
        self._all = [self._pool.submit(self._ask, number) for number in range(self._clients)]
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._pool.shutdown()
        self.versions = [each.result() for each in self._all]

    def _ask(self, number):
        """Each request by the next of the protocols."""
        seen = []
        with requests.Session() as session:
            while not self._stop.is_set():
                try:
                    answer = self.running.ask_in_turn(number + len(seen), self.registry.name, session)
                    if answer.status_code != 200 or not self.registry.agrees(answer):
                        self.failures.append(answer.text)
                except requests.RequestException as error:
                    self.failures.append(repr(error))
                else:
                    seen.append(answer.headers["X-Model-Version"])
                    self.answered += 1
        return seen


def wait_for_all_workers(running, version, workers):
    """Until no worker answers with another version: several new connections in turn reach all of them."""
    streak = 0
    deadline = time.monotonic() + 120
    while streak < 12 * workers:
        assert time.monotonic() < deadline, f"version {version} does not answer"
        streak = streak + 1 if running.model()["version"] == version else 0


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_32_clients_notice_nothing_of_10_champions(workers, start, registry, capsys):
    with start("--follow", "--poll-seconds", "0.2", "--workers", workers, seconds=180) as running:
        wait_for_all_workers(running, "1", workers)
        memory = [memory_of(running.process)]
        with Load(running, registry) as load:
            for version in CHANGES:
                registry.move(version)
                wait_for_all_workers(running, version, workers)
                memory.append(memory_of(running.process))
        counted = count_answers(running)
    switches = sum(a != b for seen in load.versions for a, b in pairwise(seen))
    with capsys.disabled():
        print(f"\n{workers} workers: {load.answered} requests, {len(load.failures)} failed, {switches} changes seen")
        print(f"MiB after each change: {[round(each / 2**20) for each in memory]}")
    assert load.failures == []
    named = Counter(version for seen in load.versions for version in seen)
    assert named.keys() == {"1", "2", "3"}
    assert named == counted
    assert min(len(seen) for seen in load.versions) > len(CHANGES)
    assert memory[-1] - memory[2] < workers * 200 * 2**20  # 45 MiB of weights each: not one kept for every change


def count_answers(running):
    """Requests that were answered, by version, as a monitor sees them."""
    found = Counter()
    for family in text_string_to_metric_families(requests.get(f"{running.url}/metrics", timeout=30).text):
        for sample in family.samples:
            if sample.name == "mlflow_resnet_requests_total" and sample.labels["outcome"] == "answered":
                found[sample.labels["version"]] += int(sample.value)
    return found


def memory_of(process):
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(each.memory_info().rss for each in family)


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_have_begun_are_answered_after_sigterm(workers, start, registry):
    with start("--workers", workers, seconds=180) as running, ThreadPoolExecutor(8) as pool:
        assert running.ask().ok
        started = time.monotonic()
        assert running.ask(images=100).ok
        alone = time.monotonic() - started
        asked = [pool.submit(running.ask, images=100) for _ in range(8)]
        time.sleep(alone)
        assert not all(each.done() for each in asked)
        running.process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert all(registry.agrees(answer) for answer in answers)
        assert running.process.wait(60) == (143 if workers == 1 else 0)
        with pytest.raises(requests.ConnectionError):
            running.ask()


def test_workers_that_are_killed_are_replaced_by_some_that_serve_the_champion_of_now(start, registry):
    with start("--follow", "--poll-seconds", "0.2", "--workers", 2, seconds=180) as running:
        registry.move("2")
        wait_for_all_workers(running, "2", 2)
        workers = [p for p in psutil.Process(running.process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
        wait_for(lambda: answers(running), 180, pause=0.5)
        for _ in range(30):
            answer = running.ask()
            assert answer.headers["X-Model-Version"] == "2"
            assert registry.agrees(answer)


def answers(running):
    with contextlib.suppress(requests.RequestException):
        return running.ask().ok
    return False


def mlflow_server(folder, port):
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "art")]
    return server(command, f"http://127.0.0.1:{port}/health", folder, seconds=180)


def test_a_registry_that_dies_and_comes_back(tmp_path, workdir, monkeypatch):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    registry = Registry("remote colors", {})
    with contextlib.ExitStack() as at_end:
        with mlflow_server(tmp_path, port) as first:
            for seed in (1, 2):
                registry.add(seed)
            registry.move("1")
            running = at_end.enter_context(
                serving(tmp_path, registry.name, "--follow", "--poll-seconds", "0.5", seconds=180)
            )
            load = at_end.enter_context(Load(running, registry, clients=4))
            kill_all(first.pid)
            running.wait_until(lambda model: model["follow"]["last_error"])
            error = running.model()["follow"]["last_error"]
            assert error.startswith("where @champion of remote colors points is not known")
            assert "http://" not in error
            before = load.answered
            wait_for(lambda: load.answered > before + 20)
        with mlflow_server(tmp_path, port):
            running.wait_until(lambda model: model["follow"]["last_error"] is None)
            registry.move("2")
            running.wait_until(lambda model: model["version"] == "2")
            before = load.answered
            wait_for(lambda: load.answered > before + 20)
            assert MlflowClient().get_model_version_by_alias(registry.name, "champion").version == "2"
    assert load.failures == []


def kill_all(pid):
    """kill -9 of a process and its children."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        process.kill()
