"""Copying a prefix from S3: seconds, and how many objects move, beside MLflow's own downloader.

The server is moto, behind a proxy that counts requests and can refuse half of them with 503. Ours keeps objects by
bucket, key and ETag, so that a second run moves none; MLflow's copies all of them every time.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from alternate import Measurement, alternate, print_machine, print_table, spread, values_of
from command import common

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # where the proxy lives

COUNT, QUICK_COUNT = 1_000, 50  # objects
SECONDS, MOVED, SPOILED, RIGHT = "seconds", "objects moved", "requests refused", "right bytes, %"
COLUMNS = (SECONDS, MOVED, SPOILED, RIGHT)


def ours_job(folder: Path, runs: int, refuse: bool, repetition: int) -> Measurement:
    """The last of `runs` runs with one cache."""
    from mlflow_resnet.images.sources import fetch_labeled_directory

    def copy(uri: str) -> dict[str, bytes]:
        found = fetch_labeled_directory(uri)
        return {name: Path(path).read_bytes() for name, path in zip(found.names, found.paths, strict=True)}

    return measured(copy, folder, runs, refuse, repetition)


def mlflow_job(folder: Path, runs: int, refuse: bool, repetition: int) -> Measurement:
    from mlflow.artifacts import download_artifacts

    def copy(uri: str) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as target:
            root = Path(download_artifacts(uri, dst_path=target))
            return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return measured(copy, folder, runs, refuse, repetition)


def measured(copy: Callable[[str], dict[str, bytes]], folder: Path, runs: int, refuse: bool, seed: int) -> Measurement:
    """Starts a server that holds `folder`, and copies it `runs` times."""
    import boto3
    from moto.server import ThreadedMotoServer
    from proxy import faulty, half

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(port=0)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    wanted = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, content in wanted.items():
        client.put_object(Bucket="bucket", Key=f"images/{name}", Body=content)
    with tempfile.TemporaryDirectory() as cache, faulty(endpoint, half(seed) if refuse else lambda *_: "") as server:
        os.environ |= {"MLFLOW_RESNET_CACHE": cache, "MLFLOW_S3_ENDPOINT_URL": server.url}
        for _ in range(runs):
            server.requests.clear()
            started = perf_counter()
            found = copy("s3://bucket/images")
            seconds = perf_counter() - started
        moved = sum(
            method == "GET" and "list-type" not in path and not fault for method, path, fault in server.requests
        )
        refused = sum(bool(fault) for _, _, fault in server.requests)
    moto.stop()
    right = sum(found.get(name) == content for name, content in wanted.items())
    return {SECONDS: seconds, MOVED: moved, SPOILED: refused, RIGHT: 100 * right / len(wanted)}


@click.command(help=__doc__)
@common
def main(data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any]) -> None:
    import data

    print_machine()
    count = QUICK_COUNT if quick else COUNT
    folder = data.with_count(data.prepared(data_dir, "digits").train, count, data_dir)
    jobs = {
        "ours, first run": partial(ours_job, folder, 1, False),
        "ours, second run": partial(ours_job, folder, 2, False),
        "ours, half of all requests refused": partial(ours_job, folder, 1, True),
        "MLflow, first run": partial(mlflow_job, folder, 1, False),
        "MLflow, second run": partial(mlflow_job, folder, 2, False),
        "MLflow, half of all requests refused": partial(mlflow_job, folder, 1, True),
    }
    results = alternate(jobs, 1 if quick else repetitions)
    rows = [
        [name, *(spread(values_of(measurements, column), 1 if column == SECONDS else 0) for column in COLUMNS)]
        for name, measurements in results.items()
    ]
    print_table(f"a prefix of {count} objects", ["", *COLUMNS], rows)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
