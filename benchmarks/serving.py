"""Answers over HTTP: ours beside the simplest mlflow pyfunc of the same network behind the same `mlflow models serve`.

resnet18 at 224 pixels with random weights, requests of one 640x480 JPEG: in base64, as it is, and as a binary tensor of
the Open Inference Protocol. In every repetition each contestant gets a fresh server: seconds from its start to a first
answer, then milliseconds with 1, 8 and 32 clients, on the same cores, MiB of memory, and how long /ping takes. The
limit is what decoding and the network make of the same pictures alone, without a server and clients. OpenVINO takes
part where it is installed, and in int8 where NNCF is. `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2` imitates an
older CPU for torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING

import click
import psutil
from alternate import (
    Measurement,
    environment,
    in_fresh_process,
    one_line,
    print_machine,
    print_table,
    ratio,
    say,
    spread,
    values_of,
)
from clients import BASE64, PICTURE, TENSOR, Protocol, answer, ask, picture, pictures
from command import common

if TYPE_CHECKING:
    from mlflow_resnet.images.sources import ImageSource

CLIENTS = (1, 8, 32)
PICTURES = 64
BATCH, ROUNDS = 32, 4
IDLE, BUSY = "MiB, idle", "MiB, after 32 clients"
LONGEST_PING = "ms of the longest /ping, 32 clients"
OURS_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}  # what our command line sets
CLASSES = 10
START_SECONDS = 300.0
PEER = "naive pyfunc, mlflow models serve"
COLD_START, RATE = "seconds to the first answer", "images/s"
LONGEST = 3600.0  # seconds
AIMS = (
    "to the limit at least x0.88 of images/s and at most x1.25 of p50; pictures x1.15 of base64; "
    "to the peer x2.5 where bf16 is fast, else x1.8; /ping within 200 ms"
)
MLFLOW = ["-m", "mlflow", "models", "serve", "--env-manager", "local", "--model-uri"]
OURS = ["-m", "mlflow_resnet", "serve"]
SERVE, SERVE_PICTURES = "mlflow-resnet serve", "mlflow-resnet serve, pictures"
DOORS = {  # the command that serves, and how it is asked
    "mlflow models serve": (MLFLOW, BASE64),
    SERVE: (OURS, BASE64),
    SERVE_PICTURES: (OURS, PICTURE),
    "mlflow-resnet serve, tensors": (OURS, TENSOR),
}
INT8 = "ours-int8"


@dataclass(frozen=True)
class Contestant:
    """A server of a model."""

    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    protocol: Protocol = BASE64

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[tuple[int, float, psutil.Process]]:
        """The port of a fresh server, the seconds from its start to its first answer, and its process."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        began = perf_counter()
        with open(folder / "server.log", "w") as log:
            command = [sys.executable, *self.command, "--port", str(port)]
            process = subprocess.Popen(command, env=os.environ | self.env, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for_answer(port, self.protocol, process, folder / "server.log")
            yield port, perf_counter() - began, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def wait_for_answer(port: int, protocol: Protocol, process: subprocess.Popen[bytes], log: Path) -> None:
    request = protocol.write(picture(0))
    until = perf_counter() + START_SECONDS
    while process.poll() is None and perf_counter() < until:
        with contextlib.suppress(OSError), contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection:
            answer(connection, protocol, *request)
            return
        sleep(0.05)
    raise click.ClickException(f"the server did not start: {log.read_text()[-2000:]}")


@dataclass(frozen=True)
class OurModel:
    """One of our registered models, and the configuration to serve it with."""

    name: str = "ours"
    config: dict[str, str] = field(default_factory=dict)
    doors: tuple[str, ...] = tuple(DOORS)


def list_models() -> dict[str, OurModel]:
    """Ours in bf16 where that is faster, as a trained model is where bf16 changes no answers, and in int8."""
    import torch

    from mlflow_resnet.model.precision import is_bf16_faster

    precision = "bf16" if is_bf16_faster(torch.device("cpu")) else "fp32"
    found = {f"torch {precision}": OurModel(config={"precision": precision})}
    if importlib.util.find_spec("openvino"):
        found[f"OpenVINO {precision}"] = OurModel(config={"precision": precision, "backend": "openvino"})
    else:
        print("openvino: not installed, so ours runs on torch alone")
    if importlib.util.find_spec("nncf"):
        found["OpenVINO int8"] = OurModel(INT8, doors=(SERVE, SERVE_PICTURES))
    else:
        print("nncf: not installed, so nothing runs in int8")
    return found


def contestants(models: Mapping[str, OurModel]) -> dict[str, Contestant]:
    found = {PEER: Contestant([*MLFLOW, "models:/naive/1"])}
    for called, model in models.items():
        env = {"MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps(model.config)}
        for door in model.doors:
            command, protocol = DOORS[door]
            found[f"ours, {called}, {door}"] = Contestant([*command, f"models:/{model.name}@champion"], env, protocol)
    return found


def find_limit(model: OurModel, seconds: float, repetition: int) -> Measurement:
    """What decoding and the network allow on these cores: many pictures at once, and one after the other."""
    from mlflow_resnet.flavor import load_predictor

    predictor, sources = load_predictor(f"models:/{model.name}/1", **model.config), picture_sources()
    found: Measurement = {}
    for key, count in (("p50, 1", 1), (f"{RATE}, {CLIENTS[-1]}", BATCH)):
        list(predictor.predict(sources[:count], count))
        times, until, number = [], perf_counter() + seconds, 0
        while perf_counter() < until:
            began = perf_counter()
            asked = sources[number % PICTURES : number % PICTURES + count] if count == 1 else sources * ROUNDS
            list(predictor.predict(asked, count))
            times.append((perf_counter() - began) / len(asked))
            number += 1
        median = statistics.median(times)
        found[key] = 1000 * median if count == 1 else 1 / median
    return found


def picture_sources() -> list[ImageSource]:
    from mlflow_resnet.images.sources import ImageSource

    return [ImageSource(str(number), partial(bytes, content)) for number, content in enumerate(pictures(PICTURES))]


def log_models(folder: str, repetition: int) -> Measurement:
    """Registers one network twice: as the simplest pyfunc, and as ours."""
    import mlflow
    import torch

    import mlflow_resnet

    os.chdir(folder)
    classes = tuple(f"class{number}" for number in range(CLASSES))
    classifier = mlflow_resnet.new_classifier("resnet18", classes)
    mlflow_resnet.log_model(classifier, registered_model_name="ours")
    mlflow.MlflowClient().set_registered_model_alias("ours", "champion", "1")
    torch.save(classifier.network.state_dict(), "weights.pth")
    Path("classes.json").write_text(json.dumps(classes))
    mlflow.pyfunc.log_model(
        name="naive",
        python_model=str(Path(__file__).parent / "naive_pyfunc.py"),
        artifacts={"weights": "weights.pth", "classes": "classes.json"},
        registered_model_name="naive",
        pip_requirements=[],
    )
    return {}


def export_int8(folder: str, repetition: int) -> Measurement:
    """Registers the same network in int8; the pictures are labeled as it labels them, so it must agree with itself."""
    import mlflow

    from mlflow_resnet.flavor import load_predictor
    from mlflow_resnet.options import ExportOptions
    from mlflow_resnet.verbs.export import export

    os.chdir(folder)
    predictor, sources = load_predictor("models:/ours/1"), picture_sources()
    for source, found in zip(sources, predictor.predict(sources, BATCH), strict=True):
        place = Path("labeled", predictor.classes[found.probabilities.argmax()])
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{source.name}.jpg").write_bytes(source.read())
    export(
        ExportOptions(
            model_uri="models:/ours/1",
            format="openvino",
            precision="int8",
            output_dir="int8",
            image_dir="labeled",
            calibration_dir="labeled",
            registered_model_name=INT8,
        )
    )
    mlflow.MlflowClient().set_registered_model_alias(INT8, "champion", "1")
    return {}


def measured(contestant: Contestant, folder: Path, contents: list[bytes], seconds: float) -> Measurement:
    """One fresh server, asked by more and more clients."""
    with contestant.running(folder) as (port, start, process):
        found = {COLD_START: start, "errors": 0.0, IDLE: memory_of(process)}
        asking = partial(ask, port, contestant.protocol, contents)
        asking(1, min(seconds, 2))  # a fresh server's first answers are slower; COLD_START tells of them
        for clients in CLIENTS:
            load = asking(clients, seconds)
            found |= {f"p50, {clients}": load.percentile(50), f"p99, {clients}": load.percentile(99)}
            found |= {f"{RATE}, {clients}": load.per_second, "errors": found["errors"] + len(load.errors)}
            for error in load.errors[:3]:
                say(error)
        found[BUSY] = memory_of(process)
        with pinging(port) as pings:  # apart, so that it costs the clients above nothing
            asking(CLIENTS[-1], seconds)
        found[LONGEST_PING] = max(pings)
    return found


@contextlib.contextmanager
def pinging(port: int) -> Iterator[list[float]]:
    """Milliseconds that /ping takes, which is asked twenty times a second while the block runs."""
    times: list[float] = []
    is_over = threading.Event()

    def ping() -> None:
        with contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection:
            while not is_over.wait(0.05):
                began = perf_counter()
                connection.request("GET", "/ping")
                connection.getresponse().read()
                times.append(1000 * (perf_counter() - began))

    with ThreadPoolExecutor(1) as pool:
        pinger = pool.submit(ping)
        try:
            yield times
        finally:
            is_over.set()
            pinger.result()


def memory_of(process: psutil.Process) -> float:
    """MiB of a server and its workers."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


def print_results(results: dict[str, list[Measurement]]) -> None:
    peer = results[PEER]
    for clients in CLIENTS:
        quantities = [(f"p50, {clients}", "p50 ms"), (f"p99, {clients}", "p99 ms"), (f"{RATE}, {clients}", RATE)]
        rows = [[name, *cells(found, peer, [key for key, _ in quantities])] for name, found in results.items()]
        header = ["", *(text for _, called in quantities for text in (called, "to the first"))]
        print_table(f"{clients} client{'s' * (clients > 1)}", header, rows)
    columns = (COLD_START, IDLE, BUSY, LONGEST_PING)
    rows = [[n, *(spread(values_of(found, c)) for c in columns), errors_of(found)] for n, found in results.items()]
    print_table("a fresh server", ["", *columns, "errors"], rows)
    print(f"aims: {AIMS}")


def print_limits(results: dict[str, list[Measurement]], limits: dict[str, list[Measurement]]) -> None:
    """How near servers come to what decoding and the network alone allow."""
    keys, rows = (f"{RATE}, {CLIENTS[-1]}", "p50, 1"), []
    for called, limit in limits.items():
        rows.append([f"limit, {called}", *(spread(values_of(limit, key)) for key in keys for _ in range(2))])
        for name in (name for name in results if f"ours, {called}," in name):
            rows.append([name, *cells(results[name], limit, list(keys))])
    header = ["", f"{RATE}, {CLIENTS[-1]} clients", "to the limit", "p50 ms, 1 client", "to the limit"]
    print_table("decoding and the network alone", header, rows)


def cells(found: list[Measurement], peer: list[Measurement], keys: list[str]) -> Iterator[str]:
    """Each quantity, and its ratio to the peer's."""
    for key in keys:
        yield spread(values_of(found, key))
        yield ratio(values_of(found, key), values_of(peer, key))


def errors_of(found: list[Measurement]) -> str:
    return f"{sum(values_of(found, 'errors')):.0f}"


@contextlib.contextmanager
def registry() -> Iterator[Path]:
    """A folder with a tracking database that has both models, and that the environment leads to."""
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow starts uvicorn
        in_fresh_process(partial(log_models, folder))
        yield Path(folder)


@click.command(help=__doc__)
@common
@click.option("--seconds", default=20.0, show_default=True, help="of asking, for each number of clients")
@click.option("--requests", "long_run", default=10_000, show_default=True, help="of a last run that counts errors")
def main(
    data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, object], seconds: float, long_run: int
) -> None:
    print_machine()
    if quick:
        repetitions, seconds, long_run = 1, 1.0, 100
    with registry() as folder:
        models = dict(list(list_models().items())[: 1 if quick else None])
        if any(model.name == INT8 for model in models.values()):
            in_fresh_process(partial(export_int8, str(folder)))
        servers, contents = contestants(models), pictures(PICTURES)
        limits: dict[str, list[Measurement]] = {name: [] for name in models}
        results: dict[str, list[Measurement]] = {name: [] for name in servers}
        for repetition in range(1, repetitions + 1):
            for name, model in models.items():
                with environment(OURS_ENVIRONMENT):
                    limits[name].append(in_fresh_process(partial(find_limit, model, seconds / 2), repetition))
                say(f"{repetition}/{repetitions} limit, {name}: {one_line(limits[name][-1])}")
            for name, contestant in servers.items():
                results[name].append(measured(contestant, folder, contents, seconds))
                say(f"{repetition}/{repetitions} {name}: {one_line(results[name][-1])}")
        print_results(results)
        print_limits(results, limits)
        for name, contestant in list(servers.items())[1:]:
            with contestant.running(folder) as (port, _, _):
                load = ask(port, contestant.protocol, contents, CLIENTS[-1], LONGEST, long_run)
            found = f"{len(load.milliseconds)} answers and {len(load.errors)} errors in {load.wall:.0f} s"
            print(f"{name}, {CLIENTS[-1]} clients: {found}", *load.errors[:5], sep="\n  ")


if __name__ == "__main__":
    main()
