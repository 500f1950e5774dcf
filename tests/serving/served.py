"""Versions of a model that answer differently, and a real `mlflow-resnet serve` of its champion."""

import base64
import contextlib
import functools
import hashlib
import io
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import mlflow
import numpy as np
import pandas as pd
import requests
import torch
import uvicorn
from helpers import free_port, server, wait_for
from mlflow import MlflowClient
from PIL import Image
from rounding import LOSS

import mlflow_resnet
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.model.storage import DESCRIPTION_FILE, WEIGHTS_FILE
from mlflow_resnet.scoring.pyfunc import ScoringModel
from mlflow_resnet.verbs.serve import bind_socket, list_connection_limits

CLASSES = ("007", "blue sky", "grün")
PROBABILITIES = [f"Scored Probabilities_{name}" for name in CLASSES]
NAME = "served colors, grün"


def picture(size: tuple[int, int] = (48, 48)) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


PICTURE = picture()


def body(images: int = 1) -> dict[str, list[str]]:
    return {"inputs": [base64.b64encode(PICTURE).decode()] * images}


@functools.cache
def list_ways(content: bytes, name: str) -> list[tuple[str, dict]]:
    """The path and the arguments of a request about one picture, in each protocol."""
    encoded = base64.b64encode(content).decode()
    parquet, tensor = io.BytesIO(), {"name": "image", "datatype": "BYTES", "shape": [1]}
    pd.DataFrame({"image": [content]}).to_parquet(parquet)
    binary = len(content).to_bytes(4, "little") + content
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(binary)}}]}).encode()
    parquet_type = {"Content-Type": "application/vnd.apache.parquet"}
    inference = f"/v2/models/{quote(name)}/infer"
    return [
        ("/invocations", {"json": {"inputs": [encoded]}}),
        ("/invocations", {"data": parquet.getvalue(), "headers": parquet_type}),
        ("/invocations", {"data": content, "headers": {"Content-Type": "image/png"}}),
        ("/invocations", {"files": {"image": content}}),
        (inference, {"json": {"inputs": [tensor | {"data": [encoded]}]}}),
        (inference, {"data": head + binary, "headers": {"Inference-Header-Content-Length": str(len(head))}}),
    ]


def columns_of(answer: requests.Response) -> dict[str, list]:
    """The rows of an answer in any protocol, by column."""
    facts = answer.json()
    if "outputs" in facts:
        return {output["name"]: output["data"] for output in facts["outputs"]}
    return {name: [row[name] for row in facts["predictions"]] for name in facts["predictions"][0]}


def new_classifier(seed: int):
    return mlflow_resnet.new_classifier(
        "resnet18", CLASSES, Preprocessing(resize_size=36, crop_size=32), random_seed=seed
    )


def log_version(classifier, name: str = NAME, **options: object) -> str:
    """The number of the new version."""
    info = mlflow_resnet.log_model(classifier, registered_model_name=name, **options)
    return str(info.registered_model_version)


@dataclass
class Registry:
    """A model with versions whose answers are known."""

    name: str
    answers: dict[str, np.ndarray]  # of each good version, to `PICTURE`

    def add(self, seed: int) -> str:
        classifier = new_classifier(seed)
        version = log_version(classifier, self.name)
        self.answers[version] = ScoringModel(Predictor(classifier)).predict([PICTURE])[PROBABILITIES].to_numpy()[0]
        return version

    def move(self, version: str, alias: str = "champion") -> None:
        MlflowClient().set_registered_model_alias(self.name, alias, version)

    def agrees(self, answer: requests.Response) -> bool:
        """Whether an answer to `PICTURE` is that of the version that its header names, whatever protocol it is of."""
        columns = columns_of(answer)
        got = np.array([columns[name] for name in PROBABILITIES]).T
        expected = self.answers[answer.headers["X-Model-Version"]]
        return bool(np.abs(np.log(got) - np.log(expected)).max() < LOSS)


def with_nan():
    """A classifier whose weights are no numbers."""
    broken = new_classifier(1)
    with torch.no_grad():
        broken.network.fc.weight.fill_(float("nan"))
    return broken


def tampered_version(name: str, seed: int) -> str:
    """A version whose weights were exchanged on the disk, and their sha256 in classifier.json with them."""
    version = log_version(new_classifier(seed), name)
    (model,) = [
        model
        for model in mlflow.search_logged_models(output_format="list")
        if model.model_id == MlflowClient().get_model_version(name, version).source.removeprefix("models:/")
    ]
    data = Path(model.artifact_location.removeprefix("file://")) / "data"
    description = json.loads((data / DESCRIPTION_FILE).read_text())
    content = bytearray((data / WEIGHTS_FILE).read_bytes())
    content[-4:] = b"\0\0\0\0"
    (data / WEIGHTS_FILE).write_bytes(content)
    description["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (data / DESCRIPTION_FILE).write_text(json.dumps(description))
    return version


@dataclass
class Serving:
    """A running `mlflow-resnet serve`."""

    url: str
    process: object

    def ask(self, images: int = 1, session=requests, **changes: object) -> requests.Response:
        return session.post(f"{self.url}/invocations", json=body(images) | changes, timeout=60)

    def ask_in_turn(self, number: int, name: str, session=requests) -> requests.Response:
        """Asks about `PICTURE` by one of the protocols."""
        ways = list_ways(PICTURE, name)
        path, arguments = ways[number % len(ways)]
        return session.post(self.url + path, timeout=60, **arguments)

    def model(self) -> dict:
        return requests.get(f"{self.url}/model", timeout=60).json()

    def wait_until(self, condition, seconds: float = 60) -> None:
        wait_for(lambda: condition(self.model()), seconds, pause=0.05)


class Load:
    """Clients that ask all the time; what they got."""

    def __init__(self, running, registry, clients):
        self.running, self.registry = running, registry
        self.failures, self.versions, self.answered = [], [], 0
        self._stop, self._clients = threading.Event(), clients

    def __enter__(self):
        self._pool = ThreadPoolExecutor(self._clients)
        self._all = [self._pool.submit(self._ask, number) for number in range(self._clients)]
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._pool.shutdown()
        self.versions = [each.result() for each in self._all]

    def _ask(self, number):
        """Each request by the next of the protocols."""
        seen = []
        with requests.Session() as session:
            while not self._stop.is_set():
                try:
                    answer = self.running.ask_in_turn(number + len(seen), self.registry.name, session)
                    if answer.status_code != 200 or not self.registry.agrees(answer):
                        self.failures.append(answer.text)
                except requests.RequestException as error:
                    self.failures.append(repr(error))
                else:
                    seen.append(answer.headers["X-Model-Version"])
                    self.answered += 1
        return seen


@contextlib.contextmanager
def running_app(app) -> Iterator[int]:
    """The port of an application that a thread serves as `mlflow-resnet serve` does."""
    listener = bind_socket("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", **list_connection_limits()))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    try:
        wait_for(lambda: running.started, pause=0.01)
        yield listener.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(30)


@contextlib.contextmanager
def serving(cwd: Path, name: str, *arguments: object, seconds: float = 90, **env: str) -> Iterator[Serving]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow_resnet", "serve", f"models:/{name}@champion", "--port", str(port)]
    with server([*command, *map(str, arguments)], f"{url}/ping", cwd, seconds, **env) as process:
        yield Serving(url, process)
