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


def form_requests(named, port):
    """Forms with pictures and params, some of them damaged."""
    names = st.sampled_from(["image", "top_k", "x", "ü", "", 'a"b', "a\r\nb"]) | st.text(max_size=10)
    file = st.sampled_from(["", '; filename="a.jpg"', "; filename=/etc/passwd", '; filename="../../x\0.png"'])
    kinds = st.sampled_from(["", "Content-Type: image/png\r\n", "Content-Transfer-Encoding: base64\r\n", "X: y\n"])
    content = files() | st.sampled_from([b"3", b"true", b"\r\n--", b"--B--", b"\xff"])
    part = st.tuples(names, file, kinds, content).map(
        lambda p: (
            f'--B\r\nContent-Disposition: form-data; name="{p[0]}"{p[1]}\r\n{p[2]}\r\n'.encode("utf-8", "replace")
            + p[3]
            + b"\r\n"
        )
    )
    whole = st.lists(part, max_size=4).map(lambda parts: b"".join(parts) + b"--B--\r\n")
    cut = st.tuples(whole, st.integers(0, 300)).map(lambda pair: pair[0][: -pair[1] or None])
    types = ["multipart/form-data; boundary=B", 'multipart/form-data; boundary="B"', "multipart/form-data"]
    types += ["multipart/form-data; boundary=", "multipart/form-data; boundary=ü", "multipart/form-data; boundary=C"]
    return st.tuples(whole | cut, st.sampled_from(types))


def inference_requests(named, port):
    """Requests of the Open Inference Protocol, all of whose parts may be wrong."""
    elements = encoded_files() | places(named, port) | json_values()
    data = st.lists(elements | st.lists(elements, max_size=2), max_size=4) | json_values()
    shape = st.lists(st.integers(-1, 4) | json_values(), max_size=3) | json_values()
    sizes = st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40) | json_values()})
    tensor = st.fixed_dictionaries(
        {"name": st.text(max_size=5), "datatype": st.sampled_from(["BYTES", "FP32", "", None]), "shape": shape},
        optional={"data": data, "parameters": sizes | json_values()},
    )
    outputs = st.lists(st.fixed_dictionaries({"name": st.sampled_from(["error", "x"])}), max_size=2) | json_values()
    bodies = st.fixed_dictionaries(
        {"inputs": st.lists(tensor, max_size=2) | json_values()},
        optional={"outputs": outputs, "parameters": params(), "id": st.text(max_size=5) | json_values()},
    )
    heads = (bodies | json_values()).map(lambda value: json.dumps(value).encode())
    lengths = st.integers(-1, 40) | st.sampled_from(["x", "", "9" * 30, "٣"])
    requests_ = st.tuples(heads, st.binary(max_size=40), lengths | st.none())
    return requests_.map(join_inference)


def join_inference(parts):
    """The body, and the header that says how much of it is JSON."""
    head, binary, length = parts
    header = len(head) if length in (0, None) else length
    return head + binary, {"Inference-Header-Content-Length": str(header).encode()} if length is not None else {}


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


def attack(url, kind, examples, folder, still_answers, path="/invocations"):
    """Sends requests of a kind: bodies with their Content-Type, or with other headers.

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
            body, headers = request
            headers = headers if isinstance(headers, dict) else {"Content-Type": headers.encode()}
            answer = session.post(url + path, data=body, headers=headers, timeout=60)
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
