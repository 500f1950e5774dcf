"""Serves a registered version over HTTP, in one process or several."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

import uvicorn
from mlflow.exceptions import MlflowException
from starlette.applications import Starlette

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.io.console import say
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.process import claim_process, is_own_process
from mlflow_resnet.options.serve import ServeOptions
from mlflow_resnet.registry.versions import format_version_uri, resolve
from mlflow_resnet.serving.connections import Connection, backlog, notice_dead_workers
from mlflow_resnet.tracking.server import check_servers

WHAT_TO_SERVE = "_MLFLOW_RESNET_SERVE"  # from the first process to its workers
SECONDS_BEFORE_A_NEW_WORKER = 2.0
KEEP_ALIVE_SECONDS = 75  # longer than load balancers do: if the server closes first, a request can meet its end
WORKER_PATIENCE_SECONDS = 60  # a busy worker answers uvicorn late, and must not be killed for it


def serve(options: ServeOptions) -> None:
    """Serves until a signal ends it, here or in workers that uvicorn spawns and restarts. Begun requests are answered.

    Raises:
        MlflowResnetError: for anything a user can cause, before anything is served.
    """
    with bind_socket(options.host, options.port) as listener:
        check_servers(registry=True)
        version_uri = format_version_uri(resolve(options.model_uri))
        os.environ["LOCAL_WORLD_SIZE"] = str(options.workers)  # they share the cores, for decoding and for torch
        os.environ.setdefault("OMP_NUM_THREADS", str(default_threads()))
        if options.workers == 1:
            from mlflow_resnet.serving.app import create_app

            app = create_app(options, version_uri)
            announce(options, version_uri)
            uvicorn.Server(uvicorn.Config(app, **list_connection_limits())).run([listener])
            return
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(try_version, version_uri, options.device).result()
    os.environ[WHAT_TO_SERVE] = json.dumps([asdict(options), version_uri])
    announce(options, version_uri)
    from mlflow_resnet.serving.monitoring import FOLDER_VARIABLE

    if is_own_process():
        notice_dead_workers()
    with tempfile.TemporaryDirectory(prefix="mlflow-resnet-metrics-") as metrics:
        os.environ[FOLDER_VARIABLE] = metrics
        uvicorn.run(
            f"{__name__}:worker_app",
            factory=True,
            workers=options.workers,
            host=options.host,
            port=options.port,
            timeout_worker_healthcheck=WORKER_PATIENCE_SECONDS,
            **list_connection_limits(),
        )


def bind_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound but does not listen, so that early connections are refused.

    Its protocol is named because asyncio sends what is short at once (TCP_NODELAY) only then; else it waits for 40 ms.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        problem = f"port {port} of {host} cannot be served from ({error.strerror}); choose another port or host"
        raise InvalidOptionsError([problem]) from None
    return listener


def list_connection_limits() -> dict[str, Any]:
    return {"http": Connection, "ws": "none", "backlog": backlog(), "timeout_keep_alive": KEEP_ALIVE_SECONDS}


def announce(options: ServeOptions, version_uri: str) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    say(f"serving {options.model_uri}, which is {version_uri}, at http://{host}:{options.port}")


def try_version(version_uri: str, device: str) -> None:
    """Raises InvalidModelError if the version cannot be served. In a process of its own, so the first stays small."""
    from mlflow_resnet.serving.version import load_version

    load_version(version_uri, device)


def worker_app() -> Starlette:
    """Returns the application of a worker. If the version cannot be had now, the worker ends, and the next one
    tries again."""
    from mlflow_resnet.serving.app import create_app

    claim_process()
    fields, version_uri = json.loads(os.environ[WHAT_TO_SERVE])
    try:
        return create_app(ServeOptions(**fields), version_uri)
    except MlflowException as error:
        say(f"a worker cannot start: {error.message}")
        time.sleep(SECONDS_BEFORE_A_NEW_WORKER)
        sys.exit(1)
