"""What a person who means harm, or a broken client, sends to a scoring server, and what must not come of it."""

import base64
import contextlib
import functools
import io
import itertools
import json
import os
import socket
import sys
import zipfile

import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from helpers import ROOT
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
SECRETS = ("Traceback", "stack_trace", "site-packages", sys.prefix, str(ROOT))
MOST_TOLD = 4000  # bytes of a refusal: a reason has 500 characters, of up to 6 bytes in JSON
MOST_GROWTH = 200 * 2**20  # bytes of memory
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
NOT_PICTURES = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file showpage\n",
    "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI(http://127.0.0.1/)>>>>endobj\n%%EOF",
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "XML": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "pickle": b"cos\nsystem\n(S'exit'\ntR.",
    "zip": b"PK\x05\x06" + bytes(18),
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3\3\0\0\0\0\0\0\0\0\0",
    "nothing": b"",
}


def text_of(content):
    return base64.b64encode(content).decode()


@functools.cache
def pictures():
    """One file in each format."""
    noise = np.random.default_rng(1).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    return [saved(picture, name) for name in FORMATS]


def saved(picture, name):
    file = io.BytesIO()
    picture.save(file, name)
    return file.getvalue()


def with_archive(content):
    """A picture that is a zip archive too."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../../evil.py", "import os")
    return file.getvalue()


@st.composite
def damaged(draw, contents):
    """One of `contents` that was cut, or of which some bytes were exchanged."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 8))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))]) if draw(st.booleans()) else bytes(content)


def files():
    """Contents of files: damaged pictures, polyglots, and what is no picture at all."""
    polyglots = st.sampled_from(pictures()).map(with_archive)
    return damaged(pictures()) | polyglots | st.sampled_from(list(NOT_PICTURES.values())) | st.binary(max_size=200)


def encoded_files():
    """These as text: base64 of all kinds, some of it broken, some in data URIs."""
    plain = files().map(text_of)
    broken = st.tuples(plain, st.sampled_from(["=", "-_-_", "\0", "ü", " ", "\n", "A"]), st.integers(0, 60)).map(
        lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
    )
    kinds = ["data:image/png;base64,", "data:text/html;base64,", "data:,", "data:image/svg+xml;utf8,", "DATA:;base64,"]
    uris = st.tuples(st.sampled_from(kinds), plain | broken).map("".join)
    return plain | broken | uris


def places(named, port):
    """Paths and URLs that a server must not open; `named` are paths that exist, and something listens on `port`."""
    here = f"127.0.0.1:{port}"
    schemes = ("http", "https", "ftp", "gs", "smb", "jar:http", "gopher", "dbfs", "hdfs", "runs", "mlflow-artifacts")
    urls = [f"{scheme}://{here}/x.png" for scheme in schemes] + [f"//{here}/x.png", f"\\\\{here}\\x.png"]
    urls += [f"http://user@{here}/x.png", f"s3://bucket/x.png?endpoint_url=http://{here}", f"s3://{here}/x.png"]
    files = [f"{prefix}{path}" for path in named for prefix in ("", "file://", "file:", "./../../../../..", "~/../..")]
    return st.sampled_from(urls + files)


def json_values():
    """Any JSON that Python's parser takes, with NaN and Infinity, which JSON has not."""
    numbers = st.integers(-(10**400), 10**400) | st.floats() | st.booleans() | st.none()
    leaves = numbers | st.text(max_size=40) | st.sampled_from(["nan", "0x10", "1e400", "__class__", "$ref", "{{7*7}}"])
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
        max_leaves=30,
    )


def params():
    """Parameters of predict with values of all kinds, and others."""
    known = st.sampled_from(["top_k", "batch_size", "min_confidence", "tta", "resolution", "explain", "topk", "", "ü"])
    likely = st.sampled_from([0, 1, 3, -1, 32, 64, 10**9, 0.5, "flip", True, None])
    return st.dictionaries(known | st.text(max_size=10), likely | json_values(), max_size=4) | json_values()


def json_bodies(named, port):
    cells = encoded_files() | places(named, port) | json_values()
    rows = st.lists(cells, max_size=6)
    split = st.fixed_dictionaries({"data": st.lists(st.lists(cells, max_size=2), max_size=4) | json_values()})
    split = st.tuples(
        split, st.dictionaries(st.sampled_from(["columns", "index", "x"]), json_values(), max_size=2)
    ).map(lambda parts: parts[0] | parts[1])
    records = st.lists(st.dictionaries(st.text(max_size=5), cells, max_size=2), max_size=4)
    inputs = st.one_of(
        st.fixed_dictionaries({"inputs": rows | cells}),
        st.fixed_dictionaries({"instances": rows | records | cells}),
        st.fixed_dictionaries({"dataframe_split": split | json_values()}),
        st.fixed_dictionaries({"dataframe_records": records | json_values()}),
        st.dictionaries(st.sampled_from(["inputs", "instances", "messages", "prompt", "ü"]), json_values(), max_size=3),
    )
    with_params = st.tuples(inputs, params()).map(lambda parts: parts[0] | {"params": parts[1]})
    return inputs | with_params | json_values()


def json_requests(named, port):
    bodies = json_bodies(named, port).map(lambda value: json.dumps(value).encode())
    return st.tuples(bodies | damaged([b'{"inputs": ["x"]}']) | st.binary(max_size=100), st.just(JSON))


@functools.cache
def parquet_files():
    tables = [pd.DataFrame({"image": pictures()}), pd.DataFrame({"a": [1], "b": ["x"]}), pd.DataFrame({"a": [[1.5]]})]
    return [table.to_parquet() for table in tables]


def other_requests(named, port):
    """Bodies that are not JSON, and content types of all kinds."""
    tables = damaged(parquet_files()) | st.binary(max_size=100)
    cells = st.lists(encoded_files() | places(named, port) | st.text(max_size=20), max_size=4)
    lines = st.lists(cells.map(",".join), max_size=4).map("\n".join)
    text = lines.map(lambda value: value.encode("utf-8", "surrogatepass")) | st.binary(max_size=100)
    types = ["application/octet-stream", "image/png", "multipart/form-data", "", "text/csv; charset=utf-16", "a;b;c=d"]
    types += ["application/json; charset=utf-8; boundary=x", "application/json;charset=latin1", "<script>"]
    return st.one_of(
        st.tuples(tables, st.just(PARQUET)),
        st.tuples(text, st.just(CSV)),
        st.tuples(text | tables, st.sampled_from(types)),
    )


@contextlib.contextmanager
def traps(folder):
    """Paths that a server could open, and a port where nobody must come."""
    (folder / "picture.png").write_bytes(pictures()[FORMATS.index("PNG")])
    os.mkfifo(folder / "pipe.jpg")
    named = [
        f"{folder}/picture.png",
        f"{folder}/pipe.jpg",
        str(folder),
        "/dev/zero",
        "/etc/passwd",
        "/nope",
        "/root/.ssh/id",
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield named, listener.getsockname()[1]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def memory_of(port):
    """Bytes that the processes hold which serve at a port."""
    servers = {c.pid for c in psutil.net_connections("tcp") if c.laddr[1] == port and c.status == "LISTEN" and c.pid}
    return sum(psutil.Process(pid).memory_info().rss for pid in servers)


def attack(url, kind, examples, folder, still_answers):
    """Sends requests of a kind.

    Args:
        still_answers: asks a valid question and checks the answer.
    """
    session, number, port = requests.Session(), itertools.count(1), int(url.rpartition(":")[2])
    with traps(folder) as (named, trap):

        @settings(
            max_examples=examples,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(kind(named, trap))
        def send(request):
            body, content_type = request
            headers = {"Content-Type": content_type}
            answer = session.post(f"{url}/invocations", data=body, headers=headers, timeout=60)
            check(answer, body)
            if next(number) % 25 == 0:
                still_answers()

        still_answers()
        before = memory_of(port)
        send()
        still_answers()
        assert before > 0
        assert memory_of(port) - before < MOST_GROWTH


def check(answer, body):
    """That an answer is no failure of the server, and tells nothing of it."""
    assert answer.status_code in (200, 400, 415), (answer.status_code, body[:300])
    assert not [secret for secret in SECRETS if secret in answer.text and secret.encode() not in body], answer.text
    assert answer.ok or len(answer.content) <= MOST_TOLD, answer.text
