"""What the gate costs a call that no rule is about: a server with the gate store beside one with MLflow's own.

Both run at once, with the same database schema and the same models; calls go to one and to the other in turn, so
whatever else the machine does, it does to both.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import requests
from alternate import print_machine, print_table, ratio, say, spread
from command import common

POLICY = "- {models: guarded*, alias: champion, require: {metrics: {top1_accuracy: {min: 0.9}}}}\n"
PLAIN, GATED = "plain store", "gate store"
AIM = 5  # percent
Call = Callable[[str, int], requests.Response]
SESSION = requests.Session()


def set_alias(url: str, number: int) -> requests.Response:
    body = {"name": "colors", "alias": "champion", "version": str(1 + number % 2)}
    return SESSION.post(f"{url}/registered-models/alias", json=body)


def set_tag(url: str, number: int) -> requests.Response:
    body = {"name": "colors", "version": "1", "key": "number", "value": str(number)}
    return SESSION.post(f"{url}/model-versions/set-tag", json=body)


def get_version(url: str, number: int) -> requests.Response:
    return SESSION.get(f"{url}/model-versions/get", params={"name": "colors", "version": "1"})


def search(url: str, number: int) -> requests.Response:
    return SESSION.get(f"{url}/model-versions/search", params={"filter": "name = 'colors'"})


CALLS: dict[str, Call] = {"set alias": set_alias, "set tag": set_tag, "get version": get_version, "search": search}


@contextlib.contextmanager
def server(folder: Path, scheme: str) -> Iterator[str]:
    """The address of the REST API of a server with one worker, which has a model with two versions."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder.mkdir()
    (folder / "policy.yaml").write_text(POLICY)
    database = f"sqlite:///{folder}/mlflow.db"
    stores = ["--backend-store-uri", database, "--registry-store-uri", scheme + database]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *stores]
    env = os.environ | {"MLFLOW_RESNET_GATE_POLICY": str(folder / "policy.yaml"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow"
    try:
        wait_for(url, process)
        SESSION.post(f"{url}/registered-models/create", json={"name": "colors"}).raise_for_status()
        for source in ("s3://bucket/one", "s3://bucket/two"):
            body = {"name": "colors", "source": source}
            SESSION.post(f"{url}/model-versions/create", json=body).raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            if SESSION.get(f"{url}/registered-models/search").ok:
                return
        time.sleep(0.2)
    raise click.ClickException("the server did not start")


def milliseconds(call: Call, urls: dict[str, str], calls: int) -> dict[str, float]:
    """The median of many calls to each server, in turn."""
    found: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(calls):
        for name, url in urls.items():
            begun = time.perf_counter()
            call(url, number).raise_for_status()
            found[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(times) for name, times in found.items()}


@click.command(help=__doc__)
@common
@click.option("--calls", default=300, show_default=True, help="of each kind to each server, in every repetition")
def main(data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, object], calls: int) -> None:
    print_machine()
    calls, repetitions = (5, 1) if quick else (calls, repetitions)
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder) / "plain", "") as plain,
        server(Path(folder) / "gated", "resnet-gate+") as gated,
    ):
        rows = []
        for name, call in CALLS.items():
            milliseconds(call, {PLAIN: plain, GATED: gated}, 5)  # the first ones build stores
            found = [milliseconds(call, {PLAIN: plain, GATED: gated}, calls) for _ in range(repetitions)]
            theirs, own = ([each[store] for each in found] for store in (PLAIN, GATED))
            say(f"{name}: {ratio(own, theirs)}")
            rows.append([name, spread(theirs, 2), spread(own, 2), ratio(own, theirs)])
    title = f"milliseconds: median of {calls} calls, then median [least..most] of {repetitions} repetitions"
    print_table(f"{title}; aim: below x{1 + AIM / 100:.2f}", ["call", PLAIN, GATED, "ratio"], rows)


if __name__ == "__main__":
    main()
