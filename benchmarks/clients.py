"""Clients that ask a scoring server as fast as it answers, each on a connection of its own, and check what they get."""

from __future__ import annotations

import base64
import http.client
import io
import json
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter

import numpy as np
from PIL import Image

SIZE = (640, 480)  # pixels
GRAIN, QUALITY = 4, 93  # as in decode.py
INPUT = {"name": "image", "shape": [1], "datatype": "BYTES"}


@dataclass(frozen=True)
class Protocol:
    """How one picture is asked about.

    Attributes:
        path: of the server.
        write: the bytes of a picture -> headers and body.
        read: a body -> the probabilities.
    """

    path: str
    write: Callable[[bytes], tuple[dict[str, str], bytes]]
    read: Callable[[bytes], list[float]]


def pictures(number: int) -> list[bytes]:
    """About 100 KB of JPEG each, the same ones every time."""
    return [picture(seed) for seed in range(number)]


def write_json(content: bytes) -> tuple[dict[str, str], bytes]:
    table = {"columns": ["image"], "data": [[base64.b64encode(content).decode()]]}
    return {"Content-Type": "application/json"}, json.dumps({"dataframe_split": table}).encode()


def write_picture(content: bytes) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "image/jpeg"}, content


def write_tensor(content: bytes) -> tuple[dict[str, str], bytes]:
    """A binary tensor of the Open Inference Protocol."""
    binary = struct.pack("<I", len(content)) + content
    head = json.dumps({"inputs": [{**INPUT, "parameters": {"binary_data_size": len(binary)}}]}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + binary


def read_rows(content: bytes) -> list[float]:
    (row,) = json.loads(content)["predictions"]
    return [value for value in row.values() if isinstance(value, float)]


def read_tensors(content: bytes) -> list[float]:
    return [output["data"][0] for output in json.loads(content)["outputs"] if output["datatype"] == "FP64"]


BASE64 = Protocol("/invocations", write_json, read_rows)
PICTURE = Protocol("/invocations", write_picture, read_rows)
TENSOR = Protocol("/v2/models/ours/infer", write_tensor, read_tensors)


def picture(seed: int) -> bytes:
    """A JPEG of soft shapes with a camera's grain."""
    draw = np.random.default_rng(seed)
    shapes = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(shapes, dtype=np.int16) + draw.normal(0, GRAIN, (SIZE[1], SIZE[0], 1)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


@dataclass
class Load:
    """What clients got.

    Attributes:
        seconds: of each answer, in milliseconds.
        errors: what came instead of an answer.
        wall: seconds that all of it took.
    """

    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wall: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.wall

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.milliseconds, percent)) if self.milliseconds else float("nan")


def ask(
    port: int, protocol: Protocol, pictures: Sequence[bytes], clients: int, seconds: float, at_most: int = 0
) -> Load:
    """Asks with `clients` at once for some seconds, or until there are so many answers.

    Every answer must be a row of probabilities of its own picture: what came with an error, or is not what the same
    picture got before, is an error.
    """
    load, known, turn = Load(), {}, count()
    requests = [protocol.write(content) for content in pictures]
    lock = threading.Lock()
    began = perf_counter()

    def goes_on() -> Iterator[int]:
        while perf_counter() - began < seconds:
            number = next(turn)
            if at_most and number >= at_most:
                return
            yield number % len(requests)

    def client(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for number in goes_on():
            sent = perf_counter()
            try:
                values = answer(connection, protocol, *requests[number])
            except Exception as error:  # whatever it is, it is no answer
                load.errors.append(f"{type(error).__name__}: {error}"[:200])
                connection.close()
                continue
            load.milliseconds.append(1000 * (perf_counter() - sent))
            with lock:
                expected = known.setdefault(number, values)
            if not np.allclose(values, expected, atol=0.02):
                load.errors.append(f"the answer to picture {number} is another one than before")

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    load.wall = perf_counter() - began
    return load


def answer(
    connection: http.client.HTTPConnection, protocol: Protocol, headers: dict[str, str], body: bytes
) -> list[float]:
    """The probabilities of the one picture of a request."""
    connection.request("POST", protocol.path, body, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {content[-200:]!r}")
    return protocol.read(content)
