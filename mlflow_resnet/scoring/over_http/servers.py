"""Tells whether this process answers somebody else than the operator.

A server is known by its name (what it has loaded or was told), and any other by what every server does: this process,
or the one that it is a `multiprocessing` worker of, has a socket on which it listens, be it one that it inherited.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

MODULES = (  # loaded in a server, and in its workers that listen nowhere themselves
    *("mlserver", "kserve", "seldon_core", "litserve", "ray.serve", "azureml_inference_server_http"),
    *("_bentoml_impl.server", "_bentoml_impl.worker", "sagemaker_inference", "ts.service", "mms.service"),
    "triton_python_backend_utils",
)
VARIABLES = (  # set where a model is deployed, and not where one is trained
    *("AZUREML_MODEL_DIR", "SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT", "K_SERVICE", "PREDICTIVE_UNIT_SERVICE_PORT"),
    *("IS_IN_DB_MODEL_SERVING_ENV", "IS_IN_DATABRICKS_MODEL_SERVING_ENV"),
    *("AWS_LAMBDA_RUNTIME_API", "FUNCTIONS_WORKER_RUNTIME"),
)
LISTENING_TCP, LISTENING_UNIX = "0A", 0x10000  # in the tables of /proc/net
OF_MULTIPROCESSING = re.compile(r"(^@?|/pymp-[^/]+/)listener-[^/]+$")  # between a program's own processes, with a key
OPEN_FILES = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

Address = int | str  # a port, or the path of a Unix socket

_reasons: list[str] = []  # a server that has stopped to listen still answers its last requests


def explain_server() -> str:
    """Returns why this process counts as a server, or "" if it is none. Once a server, it stays one."""
    if is_cluster_worker():
        return ""
    if not _reasons and (reason := find_server()):
        _reasons.append(reason)
    return _reasons[0] if _reasons else ""


def is_mlserver() -> bool:
    return "mlserver" in sys.modules


def is_cluster_worker() -> bool:
    """Returns whether a task of Spark or Ray runs here, whose job is to read paths. Ray Serve is a server."""
    if is_spark_task():
        return True
    ray = sys.modules.get("ray")
    if ray is None or "ray.serve" in sys.modules or not ray.is_initialized():
        return False
    return ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def is_spark_task() -> bool:
    tasks = getattr(sys.modules.get("pyspark"), "TaskContext", None)
    return tasks is not None and tasks.get() is not None


def find_server() -> str:
    """Returns the first reason to take this process for a server, or "" if there is none."""
    for name in MODULES:
        if name in sys.modules:
            return f"{name} is loaded"
    for name in VARIABLES:
        if os.environ.get(name, "").lower() not in ("", "0", "false"):
            return f"{name} is set"
    try:
        for address in itertools.chain(list_own_listeners(), list_parents_listeners()):
            if not is_harmless(address):
                return f"it listens on {address if isinstance(address, str) else f'port {address}'}"
    except OSError:
        return "its open files cannot be listed"
    return ""


def list_own_listeners() -> Iterator[Address]:
    """Yields where this process listens. The kernel is asked about each open file, which changes nothing of it."""
    for name in os.listdir(OPEN_FILES):
        listens, size = ctypes.c_int(), ctypes.c_uint(ctypes.sizeof(ctypes.c_int))
        ask = int(name), socket.SOL_SOCKET, socket.SO_ACCEPTCONN, ctypes.byref(listens), ctypes.byref(size)
        if load_libc().getsockopt(*ask) == 0 and listens.value:
            yield read_address(int(name))


@functools.cache
def load_libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def read_address(descriptor: int) -> Address:
    """Returns the port or path that a socket is bound to."""
    content = ctypes.create_string_buffer(128)
    size = ctypes.c_uint(len(content))
    load_libc().getsockname(descriptor, content, ctypes.byref(size))
    head, place = content.raw[:2], content.raw[2 : size.value]
    family = head[1] if sys.platform == "darwin" else int.from_bytes(head, sys.byteorder)
    if family in (socket.AF_INET, socket.AF_INET6):
        return int.from_bytes(place[:2], "big")
    return os.fsdecode(place.strip(b"\0"))


def list_parents_listeners() -> Iterator[Address]:
    """Yields where the process listens that has this one work for it by multiprocessing, if one does."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    folder = Path("/proc", str(parent.pid))
    sockets = set(read_links(folder / "fd"))
    for row in (*read_sockets(folder / "net" / "tcp"), *read_sockets(folder / "net" / "tcp6")):
        if row[3] == LISTENING_TCP and f"socket:[{row[9]}]" in sockets:
            yield int(row[1].rpartition(":")[2], 16)
    for row in read_sockets(folder / "net" / "unix"):
        if int(row[3], 16) & LISTENING_UNIX and f"socket:[{row[6]}]" in sockets:
            yield " ".join(row[7:])


def read_links(folder: Path) -> Iterator[str]:
    for link in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(link)


def read_sockets(table: Path) -> list[list[str]]:
    """Returns the rows of a table of /proc/net; none where the kernel has no such sockets."""
    return [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []


def is_harmless(address: Address) -> bool:
    """Returns whether a notebook's kernel, a Spark driver or multiprocessing listens there, which take no requests."""
    if isinstance(address, str) and OF_MULTIPROCESSING.search(address):
        return True
    kernels = sys.modules.get("ipykernel.kernelapp")
    if kernels is not None and kernels.IPKernelApp.initialized():
        kernel = kernels.IPKernelApp.instance()
        ports = [kernel.shell_port, kernel.iopub_port, kernel.stdin_port, kernel.control_port, kernel.hb_port]
        ports.append(getattr(getattr(kernel, "iopub_thread", None), "_pipe_port", None))
        if address in ports or address in [f"{kernel.ip}-{port}" for port in ports]:
            return True
    driver = getattr(getattr(sys.modules.get("pyspark"), "SparkContext", None), "_active_spark_context", None)
    updates = getattr(getattr(driver, "_accumulatorServer", None), "server_address", None)
    return updates is not None and address == (updates if isinstance(updates, str) else updates[1])
