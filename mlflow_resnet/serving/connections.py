"""Limits of a server's connections: number, time, and heads of requests.

uvicorn (0.54) has no deadline for the head of a request and no limit of connections, so its HTTP protocol is extended
here. All that is assumed of its inside stands in this file: `connections`, `cycle`, `transport` and the methods that
`Connection` overrides; and the pipe to a worker, `child_conn`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from functools import cache
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors.multiprocess import Process

HEAD_SECONDS = 15.0  # for the head of a request, from its first byte or from the beginning of the connection
MAX_HEAD_BYTES = 16 * 2**10
MAX_CONNECTIONS = 2048
MAX_BACKLOG = 1024
SPARE_FILES = 64  # that the process has open besides its connections
MAX_OPEN_FILES = 65_536
SECONDS_BETWEEN_COMPLAINTS = 60.0
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_logger = logging.getLogger(__name__)


class StrictParser(h11.Connection):
    """h11's parser of requests, which refuses heads that a proxy in front might read as another request."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE and (problem := head_problem(self.trailing_data[0])):
            raise h11.RemoteProtocolError(problem)
        return super().next_event()


def head_problem(content: bytes) -> str:
    """Returns what is ambiguous in the head of a request; "" if nothing, or not yet."""
    end = content.find(b"\r\n\r\n")
    head = content[:end] if end >= 0 else content
    if re.search(rb"(?<!\r)\n", head):
        return "a line ends without a carriage return"
    if len(head) > MAX_HEAD_BYTES:
        return "the head is too long"
    if end < 0:
        return ""
    first, *lines = head.split(b"\r\n")
    if any(line[:1] in (b" ", b"\t") for line in lines):
        return "a header goes on in the next line"
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        return "the length of the body is told twice"
    if codings and not first.endswith(b" HTTP/1.1"):
        return "Transfer-Encoding in HTTP/1.0"
    if lengths and not (lengths[0].isdigit() and len(lengths[0]) < 19):
        return "Content-Length is no number"
    return ""


class Connection(H11Protocol):
    """A connection that is closed if the head of a request is late, or its place is needed.

    When there are too many, the one goes that has waited longest for the rest of a request, so who asks at once always
    gets in. It is cut off, even if it has not read its last answer.
    """

    waiting: ClassVar[dict[Connection, None]] = {}  # for a request or its rest, the longest first

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = StrictParser(h11.SERVER, MAX_HEAD_BYTES)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > most_connections():
            longest = next(iter(self.waiting))
            del self.waiting[longest]
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.waiting.pop(self, None)  # to the end: it waits for another request from now on
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.waiting[self] = None
        if self.conn.trailing_data[0]:  # which has begun
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.waiting.pop(self, None)
        self._cancel_deadline()

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.transport.abort()  # closing waits for a client that never reads its answer

    def _watch(self) -> None:
        """Sets or removes the deadline, after something has happened."""
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.waiting.setdefault(self)
        else:
            self.waiting.pop(self, None)
        has_answer = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and has_answer):
            self._deadline = self._deadline or self.loop.call_later(HEAD_SECONDS, self._end_in_time)
        else:
            self._cancel_deadline()

    def _cancel_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end_in_time(self) -> None:
        if self.conn.our_state is h11.IDLE:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()
        self.loop.call_later(1, self.transport.abort)


@cache
def most_files() -> int:
    """Files that this process may have open, after it has raised its limit as far as it may."""
    try:
        import resource
    except ImportError:  # not POSIX
        return MAX_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def backlog() -> int:
    """Connections that wait to be accepted, which asyncio does with all of them at once."""
    return min(MAX_BACKLOG, most_files() // 4)


def most_connections() -> int:
    """Connections that this process may have without running out of files."""
    return max(min(MAX_CONNECTIONS, most_files() - backlog() - SPARE_FILES), 1)


def notice_dead_workers() -> None:
    """Has the process that starts workers notice at once that one has died while it waits for a sign of life.

    It holds the worker's end of the pipe as well, so it would wait for as long as a busy worker may take.
    """

    def start(worker: Process) -> None:
        worker.process.start()
        worker.child_conn.close()

    Process.start = start  # type: ignore[method-assign,assignment]


def complain_seldom(loop: asyncio.AbstractEventLoop) -> None:
    """Limits the messages of `loop` that no file can be opened to one a minute."""
    last = -SECONDS_BETWEEN_COMPLAINTS

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in OUT_OF_FILES:
            loop.default_exception_handler(context)
        elif time.monotonic() - last >= SECONDS_BETWEEN_COMPLAINTS:
            last = time.monotonic()
            _logger.error("connections cannot be accepted (%s); raise ulimit -n, or put a proxy in front", error)

    loop.set_exception_handler(handle)
