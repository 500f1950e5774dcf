"""A proxy in front of a real server that spoils some of its answers."""

import contextlib
import http.client
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class FaultyServer(ThreadingHTTPServer):
    """Forwards every request to `upstream`, unless `spoil(method, path)` names a fault.

    Faults: "503" or "403" instead of asking upstream; "cut", which ends the connection in the middle of the body;
    "flip", which changes a byte of the body. `requests` lists (method, path, fault or "").
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream, spoil):
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.upstream, self.spoil, self.requests = urlsplit(upstream).netloc, spoil, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        fault = self.server.spoil(self.command, self.path)
        self.server.requests.append((self.command, self.path, fault))
        content = self.content()
        if fault == "503":
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self.answer(503, [("Content-Type", "application/xml")], body)
            return
        if fault == "403":
            self.answer(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
            return
        connection = http.client.HTTPConnection(self.server.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, content, headers | {"Host": self.headers["Host"]})
        answer = connection.getresponse()
        body = answer.read()
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.answer(answer.status, answer.getheaders(), body, sent=len(body) // 2 if fault == "cut" else None)

    def content(self):
        """The body of the request. One of an empty file has no length and comes in chunks, of which there is none."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        del self.headers["Transfer-Encoding"]
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status, headers, body, sent=None):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        if sent is not None:
            self.wfile.flush()
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = forward

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def faulty(upstream, spoil):
    """A running FaultyServer."""
    with running(FaultyServer(upstream, spoil)) as server:
        yield server


@contextlib.contextmanager
def running(server):
    """Has a thread answer for a server as long as the block lasts."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def half(seed, fault="503"):
    """Spoils half of all requests, as drawn with `seed`."""
    draw, lock = random.Random(seed), threading.Lock()

    def spoil(method, path):
        with lock:
            return fault if draw.random() < 0.5 else ""

    return spoil
