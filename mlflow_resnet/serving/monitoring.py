"""What Prometheus reads at `/metrics`: requests, images, batches, and which version answers.

With several workers each writes its own numbers to files in one folder, and whoever is asked adds them up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # set where there are several workers, before prometheus_client is loaded
PROTOCOL = "mlflow_resnet.protocol"  # of a request's scope: the name of its kind of body, once that is known
OUTCOMES = {429: "busy", 503: "busy", 408: "late", 504: "late"}  # of other statuses the first digit decides
OUTCOMES_BY_DIGIT = {0: "gone", 2: "answered", 4: "refused"}  # without a status the client had left

REQUESTS = Counter(
    "mlflow_resnet_requests", "Requests for predictions, by how they ended", ["protocol", "outcome", "version"]
)
SECONDS = Histogram(
    "mlflow_resnet_request_seconds",
    "From the head of a request to the end of its answer",
    ["protocol"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ANSWERED_IMAGES = Counter("mlflow_resnet_images", "Images that were answered: scored, or with an error", ["outcome"])
BATCHES = Histogram(
    "mlflow_resnet_batch_images", "Images in a pass through the network", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
IN_PROGRESS = Gauge("mlflow_resnet_requests_in_progress", "Requests without an answer yet", multiprocess_mode="livesum")
VERSION = Gauge(
    "mlflow_resnet_version_info",
    "1 for the version that answers",
    ["name", "version", "model_id", "model_sha256"],
    multiprocess_mode="livemax",
)
SWITCHES = Counter("mlflow_resnet_version_switches", "How often another version took over")
BEHIND = Gauge(
    "mlflow_resnet_follow_failing",
    "1 if the version that the alias means is not known, or cannot be served",
    multiprocess_mode="livemax",
)
LAST_CHECK = Gauge(
    "mlflow_resnet_follow_last_check_timestamp_seconds",
    "When the registry was last asked, in seconds since 1970; 0 without --follow",
    multiprocess_mode="livemin",
)

SHADOWED = Counter(
    "mlflow_resnet_shadow_images",
    "Images that the challenger was asked about too: it gave the same label, another, failed, or was left out",
    ["outcome", "version"],
)
disable_created_metrics()


def forget_dead_workers() -> None:
    """Has processes that have ended count no longer for what is in progress."""
    folder = os.environ.get(FOLDER_VARIABLE)
    for path in Path(folder).glob("gauge_live*.db") if folder else ():
        process = int(path.stem.rpartition("_")[2])
        if not psutil.pid_exists(process):
            mark_process_dead(process)


def count_batch(images: int) -> None:
    BATCHES.observe(images)


def count_images(errors: Any) -> None:
    """Counts the rows of an answer by their column of errors."""
    failed = sum(map(bool, errors))
    ANSWERED_IMAGES.labels("error").inc(failed)
    ANSWERED_IMAGES.labels("scored").inc(len(errors) - failed)


def note_version(now: Sequence[str], before: Sequence[str] = ()) -> None:
    """Notes which version answers from now on, and which did before, by the labels of `VERSION`."""
    if before:
        SWITCHES.inc()
        VERSION.labels(*before).set(0)
    VERSION.labels(*now).set(1)


def measure_requests(app: ASGIApp, get_version: Callable[[Scope], str]) -> ASGIApp:
    """Counts and times the requests that `app` is asked to answer with predictions, by the version that answers."""

    async def answer_measured(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with IN_PROGRESS.track_inprogress():
            try:
                await app(scope, receive, send_noted)
            except BaseException:
                status = status or 500
                raise
            finally:
                protocol = scope.get(PROTOCOL, "none")
                REQUESTS.labels(protocol, find_outcome(status), get_version(scope)).inc()
                SECONDS.labels(protocol).observe(time.perf_counter() - began)

    return answer_measured


def find_outcome(status: int) -> str:
    """Returns how a request ended."""
    return OUTCOMES.get(status) or OUTCOMES_BY_DIGIT.get(status // 100, "failed")


def format_metrics() -> Response:
    registry = REGISTRY
    if FOLDER_VARIABLE in os.environ:
        forget_dead_workers()
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
