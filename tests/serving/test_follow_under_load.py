"""Champions that change and signals that come while many clients ask."""

import contextlib
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psutil
import pytest
import requests
from helpers import wait_for
from prometheus_client.parser import text_string_to_metric_families
from served import Load, Registry, serving

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
        with Load(running, registry, CLIENTS) as load:
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
