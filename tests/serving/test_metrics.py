"""What a monitor sees of a champion server."""

import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import requests
import yaml
from helpers import free_port, server, wait_for
from prometheus_client.parser import text_string_to_metric_families
from served import Registry, serving
from tiers import needs

from mlflow_resnet.serving.monitoring import find_outcome


def read_metrics(url):
    """(name, labels) -> value."""
    answer = requests.get(f"{url}/metrics", timeout=60)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def count(metrics, metric, /, **labels):
    """The sum of a metric over all samples with these labels."""
    wanted = labels.items()
    return sum(value for (found, has), value in metrics.items() if found == f"mlflow_resnet_{metric}" and wanted <= has)


@pytest.fixture
def registry(tracking, request):
    found = Registry(f"measured {request.node.name}"[:60], {})
    found.move(found.add(1))
    return found


def test_requests_images_and_batches_are_counted(registry, tmp_path):
    with serving(tmp_path, registry.name) as running:
        for _ in range(3):
            assert running.ask(images=2).ok
        assert requests.post(f"{running.url}/invocations", json={"nothing": 1}, timeout=60).status_code == 400
        headers = {"Content-Type": "image/png"}
        assert requests.post(f"{running.url}/invocations", data=b"bad", headers=headers, timeout=60).ok
        found = read_metrics(running.url)
    assert count(found, "requests_total", protocol="json", outcome="answered", version="1") == 3
    assert count(found, "requests_total", protocol="json", outcome="refused") == 1
    assert count(found, "requests_total", protocol="picture", outcome="answered") == 1
    assert count(found, "images_total", outcome="scored") == 6
    assert count(found, "images_total", outcome="error") == 1
    assert count(found, "batch_images_sum") >= 6
    assert count(found, "request_seconds_count") == 5
    assert 0 < count(found, "request_seconds_sum", protocol="json") < 60
    assert count(found, "requests_in_progress") == 0
    assert count(found, "version_info", version="1", name=registry.name) == 1
    assert any(name == "process_resident_memory_bytes" for name, _ in found)


def test_another_champion_is_named_from_then_on(registry, tmp_path):
    with serving(tmp_path, registry.name, "--follow", "--poll-seconds", 0.2) as running:
        assert running.ask().ok
        registry.move(registry.add(2))
        running.wait_until(lambda model: model["version"] == "2")
        assert running.ask().ok
        found = read_metrics(running.url)
    assert count(found, "version_switches_total") == 1
    assert [count(found, "version_info", version=version) for version in ("1", "2")] == [0, 1]
    assert [count(found, "requests_total", version=version) for version in ("1", "2")] == [1, 1]
    assert count(found, "follow_failing") == 0
    assert time.time() - 60 < count(found, "follow_last_check_timestamp_seconds") <= time.time()


@pytest.mark.slow
def test_workers_are_counted_together_also_after_one_was_killed(registry, tmp_path):
    with serving(tmp_path, registry.name, "--workers", 2) as running:
        for _ in range(20):
            assert running.ask().ok
        assert count(read_metrics(running.url), "requests_total", outcome="answered") == 20
        children = psutil.Process(running.process.pid).children()
        worker = next(each for each in children if "spawn_main" in " ".join(each.cmdline()))
        os.kill(worker.pid, signal.SIGKILL)

        def answers():
            try:
                return running.ask().ok
            except requests.ConnectionError:
                return False

        wait_for(lambda: not psutil.pid_exists(worker.pid) and answers(), 90, pause=0.2)
        found = read_metrics(running.url)
    assert count(found, "requests_total", outcome="answered") >= 21
    assert count(found, "requests_in_progress") == 0
    assert count(found, "version_info", version="1") == 1


def test_how_a_request_ended_is_told_by_its_status():
    ends = {0: "gone", 200: "answered", 400: "refused", 413: "refused", 503: "busy", 408: "late", 504: "late"}
    assert {status: find_outcome(status) for status in ends} == ends
    assert find_outcome(500) == "failed"


@pytest.mark.slow
def test_a_real_prometheus_reads_them(registry, tmp_path):
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        pytest.skip(needs("Prometheus", "apt-get install prometheus"))
    with serving(tmp_path, registry.name) as running:
        text = requests.get(f"{running.url}/metrics", timeout=60).text
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        port, target = free_port(), running.url.removeprefix("http://")
        scrape = {"job_name": "champion", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        url = f"http://127.0.0.1:{port}"
        with server([*command, f"--web.listen-address=127.0.0.1:{port}"], f"{url}/-/ready", tmp_path):
            for _ in range(5):
                assert running.ask().ok
                time.sleep(0.2)

            def ask():
                query = {"query": 'sum(mlflow_resnet_requests_total{outcome="answered"})'}
                result = requests.get(f"{url}/api/v1/query", params=query, timeout=10).json()["data"]["result"]
                return result and result[0]["value"][1] == "5"

            wait_for(ask, 60, pause=0.5)
