"""Prepares a process for HTTP requests: divides cores, allows concurrent requests.

MLflow's scoring server loads a model before it listens, so what happens then has happened when `/ping` says yes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from mlflow_resnet.io.parallel import default_threads

WORLD_SIZE = "LOCAL_WORLD_SIZE"
REQUESTS_AT_ONCE = 512  # each in a thread, most of which wait for the network


def share_mlflow_cores() -> None:
    """Divides the cores among the workers of `mlflow models serve --workers N`, as torchrun's processes do."""
    workers = parse_workers(sys.argv)
    if workers > 1 and WORLD_SIZE not in os.environ:
        os.environ[WORLD_SIZE] = str(workers)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(default_threads())


def parse_workers(command: list[str]) -> int:
    """N of `uvicorn … --workers N …`, which is the `sys.argv` of its workers too; 1 if that is not the command."""
    with contextlib.suppress(ValueError, IndexError):
        return int(command[command.index("--workers") + 1])
    return 1


def take_requests_at_once() -> None:
    """Gives the running event loop threads for all requests.

    Its own are a few per core, and a request that waits for one is not seen by anybody.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(REQUESTS_AT_ONCE, "request"))
