"""Raw connections to an application that is served as `mlflow-resnet serve` serves its own, without a model."""

import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import uvicorn
from helpers import wait_for
from served import running_app
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from uvicorn.supervisors.multiprocess import Process

from mlflow_resnet.serving import connections, intake
from mlflow_resnet.serving.answers import refuse_invocation
from mlflow_resnet.serving.connections import Connection, head_problem, notice_dead_workers
from mlflow_resnet.serving.intake import Intake
from mlflow_resnet.serving.protocols.body_kinds import find_invocation_kind
from mlflow_resnet.verbs.serve import bind_socket

MIB = 2**20
JSON = "Content-Type: application/json\r\n"


async def count(scope, kind, content):
    return PlainTextResponse(str(len(content)))


@pytest.fixture(scope="module")
def taking():
    """The intake of a running application that takes bodies of 1 MiB, and its port."""
    taking = Intake(count, refuse_invocation, find_invocation_kind, MIB, lambda scope: 256)
    app = Starlette(
        routes=[
            Route("/ping", lambda request: PlainTextResponse("yes")),
            Route("/invocations", taking, methods=["POST"]),
            Route("/much", lambda request: PlainTextResponse("x" * 20 * MIB)),
        ]
    )
    with running_app(app) as port:
        yield taking, port


def connect(port, content=b""):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(content if isinstance(content, bytes) else content.encode())
    return connection


def answer_of(connection):
    """All that comes until the server closes; what is cut off counts as closed."""
    received = b""
    with connection, contextlib.suppress(ConnectionError):
        while part := connection.recv(2**16):
            received += part
    return received.decode()


def drip(connection):
    """How many bytes a connection takes, one by one, before it is closed; 1000 if it is not."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 1000:
            connection.sendall(b"x")
            time.sleep(0.02)
            sent += 1
    return sent


def has_answered(connection):
    return connection.cycle is not None and connection.cycle.response_complete


def ping(port):
    return answer_of(connect(port, "GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))


def answers(port):
    with contextlib.suppress(ConnectionError):
        return ping(port).endswith("yes")
    return False


def post(length, content="", headers=JSON):
    return f"POST /invocations HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{content}"


AMBIGUOUS = {
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}xx",
    "the same length twice": "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": "Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": "Content-Length: -2\r\n\r\n{}",
    "a length with a sign": "Content-Length: +2\r\n\r\n{}",
    "no length": "Content-Length: \r\n\r\n{}",
    "a length of 5,000 digits": f"Content-Length: {'9' * 5000}\r\n\r\n{{}}",
    "a length in other digits": "Content-Length: \u0662\r\n\r\n{}",
    "two codings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a header that goes on": "X: 1\r\n Content-Length: 4\r\nContent-Length: 2\r\n\r\n{}",
    "a bare line feed": "X: 1\nContent-Length: 4\r\nContent-Length: 2\r\n\r\n{}",
    "a bare line feed at the end": "Content-Length: 2\r\n\n{}",
    "a bare carriage return": "X: 1\rContent-Length: 4\r\nContent-Length: 2\r\n\r\n{}",
    "a space before the colon": "Content-Length : 2\r\n\r\n{}",
    "a NUL": "X: \0\r\nContent-Length: 2\r\n\r\n{}",
    "two hosts": "Host: y\r\nContent-Length: 2\r\n\r\n{}",
    "a head of 20 KiB": f"X: {'x' * 20_000}\r\n\r\n",
    "chunks of no size": "Transfer-Encoding: chunked\r\n\r\nxx\r\n{}\r\n0\r\n\r\n",
    "a chunk of negative size": "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_head_that_a_proxy_might_read_otherwise_is_refused_and_the_connection_closed(name, taking):
    following = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\n{JSON}{AMBIGUOUS[name]}{following}"
    answer = answer_of(connect(taking[1], head))
    assert answer.startswith(("HTTP/1.1 400 ", "HTTP/1.1 431 ", "HTTP/1.1 501 ")), answer
    assert "yes" not in answer


def test_chunks_in_http_1_0_are_refused(taking):
    head = f"POST /invocations HTTP/1.0\r\nHost: x\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    assert answer_of(connect(taking[1], head)).startswith("HTTP/1.1 400 ")


def test_a_smuggled_request_behind_one_that_was_refused_is_not_answered(taking):
    first = post(2 * MIB)  # over the limit, and refused before it is read
    smuggled = "GET /ping HTTP/1.1\nHost: x\r\n\r\n"
    answer = answer_of(connect(taking[1], first + " " * 2 * MIB + smuggled))
    assert answer.startswith("HTTP/1.1 413 ")
    assert "yes" not in answer


def test_honest_requests_are_answered_also_one_behind_the_other(taking):
    chunked = f"POST /invocations HTTP/1.1\r\nHost: x\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    last = "GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = answer_of(connect(taking[1], post(4, "{ }\n") + chunked + last))
    assert answer.count("HTTP/1.1 200 ") == 3
    assert answer.endswith("yes")
    assert head_problem(b"GET / HT") == head_problem(b"") == ""


def test_what_is_no_chunk_after_the_answer_leaves_no_trace_in_the_log(taking, caplog):
    with caplog.at_level(logging.ERROR):
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{JSON.replace('json', 'x')}\r\n"
        connection = connect(taking[1], head)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"no chunk\r\n\r\n")
        answer_of(connection)
    assert not caplog.records


@pytest.mark.parametrize("content", [b"", b"GET /ping HTTP/1.1\r\nX: ", b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET"])
def test_a_head_that_does_not_come_in_time_ends_the_connection(content, taking, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    answer = answer_of(connect(taking[1], content))
    assert time.monotonic() - began < 20
    assert "HTTP/1.1 408 " in answer


def test_a_head_that_comes_byte_by_byte_has_no_more_time(taking, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    connection = connect(taking[1], "GET /ping HTTP/1.1\r\nX: ")
    assert drip(connection) < 1000


def test_a_body_that_does_not_come_in_time_ends_with_408(taking, monkeypatch):
    monkeypatch.setattr(intake, "FIRST_SECONDS", 0.3)
    answer = answer_of(connect(taking[1], post(1000, "{")))
    assert answer.startswith("HTTP/1.1 408 ")
    assert "the body did not arrive in time" in answer
    assert taking[0].held == taking[0].requests == 0


def test_the_rest_of_a_refused_body_has_no_more_time_than_a_head(taking, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    connection = connect(taking[1], post(10**9))
    assert connection.recv(2**16).startswith(b"HTTP/1.1 413 ")
    assert drip(connection) < 1000


def test_idle_bodies_keep_nobody_out(taking):
    intake, port = taking
    idle = [connect(port, post(MIB // 4, "{")) for _ in range(100)]
    wait_for(lambda: len(intake._arriving) == 100)
    wait_for(lambda: intake.held == 100)  # what has arrived, not what was declared
    assert answer_of(connect(port, post(2, "{}", JSON + "Connection: close\r\n"))).endswith("2")
    for connection in idle:
        connection.close()
    wait_for(lambda: intake.held == 0)


def test_bodies_that_stop_halfway_give_way_to_others(taking):
    intake, port = taking
    almost = MIB // 4 - 1
    stopped = [connect(port, post(almost + 1, "x" * almost)) for _ in range(9)]  # more than two of 1 MiB
    wait_for(lambda: len(intake._arriving) == 8 and intake.held == 8 * almost)
    quick = post(almost, "0".rjust(almost), JSON + "Connection: close\r\n")
    assert answer_of(connect(port, quick)).endswith(str(almost))
    stopped[0].sendall(b"x")
    assert stopped[0].recv(2**16).startswith(b"HTTP/1.1 503 ")
    for connection in stopped:
        connection.close()
    wait_for(lambda: intake.held == 0)


def test_clients_that_vanish_leave_nothing_behind(taking):
    intake, port = taking
    for length in (0, 1, 100_000):
        connect(port, post(200_000, "x" * length)).close()
    wait_for(lambda: intake.held == intake.requests == len(intake._arriving) == 0)
    assert ping(port).endswith("yes")


@pytest.fixture
def few(monkeypatch):
    """At most 20 connections."""
    wait_for(lambda: not Connection.waiting)
    monkeypatch.setattr(connections, "most_connections", lambda: 20)


@pytest.mark.parametrize("content", [b"", b"GET /ping HTTP/1.1\r\nX: ", post(9, "{").encode()])
def test_connections_that_wait_give_way_to_one_that_asks(content, few, taking):
    waiting = [connect(taking[1], content) for _ in range(60)]
    assert ping(taking[1]).endswith("yes")
    assert len(Connection.waiting) <= 20
    assert answer_of(waiting[0]) == ""  # the first ones were cut off
    for connection in waiting[1:]:
        connection.close()


def test_who_never_reads_his_answer_is_cut_off(few, taking):
    deaf = [connect(taking[1], "GET /much HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(5)]
    wait_for(lambda: sum(map(has_answered, list(Connection.waiting))) == 5)  # a connection waits before it asks, too
    others = [connect(taking[1], "") for _ in range(20)]
    assert ping(taking[1]).endswith("yes")
    assert len(answer_of(deaf[0])) < 20 * MIB
    for connection in deaf[1:] + others:
        connection.close()


OUT_OF_FILES = """
import asyncio, contextlib, resource, sys, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from mlflow_resnet.serving.connections import complain_seldom
from mlflow_resnet.verbs.serve import bind_socket, list_connection_limits

@contextlib.asynccontextmanager
async def lifespan(app):
    complain_seldom(asyncio.get_running_loop())
    print(listener.getsockname()[1], flush=True)
    yield

def leak_files():
    sys.stdin.readline()
    files = []
    with contextlib.suppress(OSError):
        while True:
            files.append(open("/dev/null"))
    print("none left", flush=True)
    sys.stdin.readline()

listener = bind_socket("127.0.0.1", 0)
threading.Thread(target=leak_files, daemon=True).start()
app = Starlette(routes=[Route("/ping", lambda request: PlainTextResponse("yes"))], lifespan=lifespan)
uvicorn.Server(uvicorn.Config(app, access_log=False, **list_connection_limits())).run([listener])
"""


@pytest.mark.slow
def test_a_flood_of_connections_neither_stops_the_server_nor_fills_its_log(tmp_path):
    command = [sys.executable, "-c", OUT_OF_FILES]
    pipe = subprocess.PIPE
    with open(tmp_path / "log", "w+") as log, contextlib.ExitStack() as at_end:
        process = at_end.enter_context(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, bufsize=1)
        )
        at_end.callback(process.kill)
        port = int(process.stdout.readline())
        wait_for(lambda: answers(port))
        half = [connect(port, "GET /ping HTTP/1.1\r\nX: ") for _ in range(200)]
        assert ping(port).endswith("yes")
        assert (tmp_path / "log").stat().st_size < 2000
        process.stdin.write("\n")
        assert process.stdout.readline() == "none left\n"
        for _ in range(20):
            at_end.enter_context(connect(port, "GET /ping HTTP/1.1\r\nX: "))
        wait_for(lambda: "raise ulimit -n" in (tmp_path / "log").read_text(), pause=0.1)
        time.sleep(2)  # asyncio tries again every second
        assert (tmp_path / "log").stat().st_size < 5000
    for connection in half:
        connection.close()


def test_connections_and_those_that_wait_fit_into_the_files_that_may_be_open():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections.most_files() >= min(soft, connections.MAX_OPEN_FILES)
    most = connections.most_connections() + connections.backlog() + connections.SPARE_FILES
    assert most <= max(connections.most_files(), 90)


def test_a_worker_that_dies_while_it_is_asked_for_a_sign_of_life_is_noticed_at_once(monkeypatch):
    monkeypatch.setattr(Process, "start", Process.start)
    notice_dead_workers()
    config = uvicorn.Config("starlette.applications:Starlette", factory=True, log_level="warning")
    with bind_socket("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as pool:
        worker = Process(config, [listener])
        worker.start()
        try:
            assert worker.wait_until_ready(60)
            os.kill(worker.pid, signal.SIGSTOP)  # it does not answer, once all its threads have stopped
            wait_for(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, pause=0.05)
            answer = pool.submit(worker.ping, 45)
            time.sleep(1)
            assert not answer.done()
            os.kill(worker.pid, signal.SIGKILL)
            assert answer.result(30) is False
        finally:
            worker.kill()
            worker.join()
