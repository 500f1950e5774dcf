"""What a process does that is to answer HTTP requests."""

import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
import threading
import weakref

import pytest
from served import PICTURE

from mlflow_resnet.mlflow_seams import SCORING_SERVER_VARIABLE
from mlflow_resnet.scoring.configuration import WORLD_SIZE, parse_workers
from mlflow_resnet.scoring.over_http.admission import take_requests_at_once
from mlflow_resnet.scoring.over_http.guard import SERVING_SWITCHES
from mlflow_resnet.serving.version import load_version
from mlflow_resnet.verbs.serve import bind_socket

REQUESTS = 50  # more than the threads that asyncio has by itself, 32 at most


def test_a_loop_takes_all_requests_at_once():
    together = threading.Barrier(REQUESTS)

    async def answer_all():
        take_requests_at_once()
        await asyncio.gather(*(asyncio.to_thread(together.wait, 30) for _ in range(REQUESTS)))

    asyncio.run(answer_all())
    assert not together.broken


def test_short_answers_are_sent_at_once():
    found = []

    async def connect():
        async def answer(reader, writer):
            found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind_socket("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(connect())
    (no_delay,) = found
    assert no_delay


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        (["uvicorn", "--port", "5000", "--workers", "3", "app:app"], 3),
        (["uvicorn", "--port", "5000", "app:app"], 1),
        (["pytest", "--workers"], 1),
        (["pytest", "--workers", "auto"], 1),
    ],
)
def test_workers_are_counted_in_the_command(command, workers):
    assert parse_workers(command) == workers


def test_workers_of_mlflows_server_share_the_cores():
    shared = "from mlflow_resnet.scoring.configuration import *; share_mlflow_cores(); "
    shared += "print(default_threads(), torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", WORLD_SIZE)}
    process = subprocess.run(
        [sys.executable, "-c", shared, "--workers", "2"], capture_output=True, text=True, check=True, env=environment
    )
    share = str(max(1, min(len(os.sched_getaffinity(0)) // 2, 32)))
    assert process.stdout.split() == [share, share]


OURS_AT_REST = """
from mlflow_resnet.io.process import claim_process
from mlflow_resnet.options import ServeOptions
from mlflow_resnet.serving.app import create_app

claim_process()
app = create_app(ServeOptions(model_uri="models:/colors@champion"), "models:/colors/1")
"""
MLFLOWS_AT_REST = f"""
import os
os.environ["{SCORING_SERVER_VARIABLE}"] = "models:/colors/1"
from mlflow.pyfunc.scoring_server.app import app
"""
COUNT = "\nimport gc\nprint('looks through', len(gc.get_objects()))"


@pytest.mark.parametrize(
    "server",
    [pytest.param(OURS_AT_REST, id="ours"), pytest.param(MLFLOWS_AT_REST, id="MLflow's", marks=pytest.mark.slow)],
)
def test_the_garbage_collector_of_a_server_does_not_look_through_all_modules(server, trained):
    """Half a million objects would hold up every request, and /ping, for a quarter of a second."""
    done = subprocess.run([sys.executable, "-c", server + COUNT], capture_output=True, text=True)
    assert int(re.search(r"looks through (\d+)", done.stdout)[1]) < 100_000, done.stderr


def test_a_version_that_is_replaced_goes_without_the_garbage_collector(trained, monkeypatch):
    """Which leaves alone the one that a server began with."""
    for name in SERVING_SWITCHES:
        monkeypatch.setenv(name, "true")  # which loading sets
    served = load_version("models:/colors/1")
    served.model.score([PICTURE], {})
    gc.collect()
    references = [weakref.ref(each) for each in (served, served.model)]
    gc.disable()
    try:
        del served
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()
