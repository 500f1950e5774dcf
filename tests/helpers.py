"""What several tests use: pictures, processes, servers."""

import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

ROOT = Path(__file__).parent.parent
COLORS = {"007": (200, 60, 40), "blue sky": (60, 90, 200), "grün": (70, 170, 80)}  # a number, a space, an umlaut
TINY = {  # seconds, not minutes
    "architecture": "resnet18",
    "pretrained": False,
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.003,
    "resize_size": 36,
    "crop_size": 32,
    "checkpoint_minutes": 0,
}

REPORT_OF_HITS = {  # what an evaluation without mistakes leaves, with captum installed
    "confidence.png",
    "confusion_matrix.png",
    "most_confused.json",
    "per_class.json",
    "predictions.parquet",
    "thresholds.json",
    "top_losses.png",
    "top_losses_explained.png",
    "unsure_hits.png",
    "unsure_hits_explained.png",
}


def write_picture(path: Path, color: tuple[int, int, int], seed: int, size: tuple[int, int] = (60, 44)) -> Path:
    """A noisy picture of one color, in the format of the suffix."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def write_class_folders(root: Path, per_class: int, first_seed: int = 0, suffix: str = ".jpg") -> Path:
    """Class folders named after `COLORS`, of different sizes of picture."""
    for number, (name, color) in enumerate(COLORS.items()):
        for i in range(per_class):
            seed = first_seed + 1000 * number + i
            write_picture(root / name / f"{i:02d}{suffix}", color, seed, size=(40 + 3 * i, 60 - 2 * i))
    return root


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """What lies in a folder that several tests read is after the block what it was before it."""

    def found() -> dict[str, tuple[int, int]]:
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [folder, *folder.rglob("*")]}

    before = found()
    yield
    changed = {path for path, _ in before.items() ^ found().items()}
    assert not changed, f"a test changed what others read: {sorted(changed)}"


def run_cli(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    """`python -m mlflow_resnet ARGS` in a process of its own."""
    command = [sys.executable, "-m", "mlflow_resnet", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300)


def run_main(*args: object) -> subprocess.CompletedProcess:
    """The same in this process, which has imported torch and MLflow already: seconds faster."""
    from mlflow_resnet.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["mlflow-resnet", *map(str, args)]
    try:
        with (
            give_back_process(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(args, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def give_back_process():
    """What a command sets for its process holds until the end of the block; then the process is a caller's again."""
    from mlflow_resnet.cli import MLFLOW_DEFAULTS
    from mlflow_resnet.io import process

    factory, handler = logging.getLogRecordFactory(), signal.getsignal(signal.SIGTERM)
    added = [name for name in MLFLOW_DEFAULTS if name not in os.environ]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        process._claimed.clear()
        logging.setLogRecordFactory(factory)
        signal.signal(signal.SIGTERM, handler)
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def start_cli(*args: object, launcher: Sequence[str] = (), **options: object):
    """A command in a process that can be sent signals, and that does not outlive the block. `options` are Popen's.

    A shell's background job ignores Ctrl-C, and so would the process, if it were not told otherwise. `launcher` is a
    module that runs modules, and its arguments.
    """
    command = [sys.executable, "-m", *launcher, "mlflow_resnet", *map(str, args)]
    restore = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restore, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], seconds: float = 60, pause: float = 0.0, process=None) -> None:
    """Waits until something is so, while a `process`, if one is given, goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)


@dataclass(frozen=True)
class Learned:
    """A training without a run."""

    classifier: object
    results: list

    @property
    def metrics(self) -> dict[str, float]:
        """Of the best epoch."""
        return [result for result in self.results if result.is_best][-1].metrics

    def history(self, name: str) -> list[float]:
        return [result.metrics[name] for result in self.results]


def learn(options) -> Learned:
    """Trains as `train` does, without MLflow, which takes seconds."""
    from mlflow_resnet.runs.preparation import prepare_training

    training = prepare_training(options)
    results = list(training.epochs(options))
    return Learned(training.classifier, results)


def flags(options: dict) -> list[str]:
    """Options as command-line arguments."""
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value).lower())]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(command: list[str], health: str, cwd: Path, seconds: float = 90, **env: str):
    """A process that answers at `health` before the block begins and is stopped after it."""
    log = cwd / f"server-{free_port()}.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + seconds
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{' '.join(command)} did not become healthy:\n{log.read_text()[-3000:]}")
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(health, timeout=5).ok:
                    break
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        with contextlib.suppress(ProcessLookupError):  # none is left, as MLflow 3.1 would leave its gunicorn
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def mlflow_server(
    folder: Path, *arguments: str, port: int = 0, python: Path | str = sys.executable, seconds: float = 90, **env: str
) -> Iterator[str]:
    """A real MLflow server that keeps a database and artifacts in a folder, unless `arguments` say otherwise.

    Yields:
        Its URL.
    """
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    command = [str(python), "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", *arguments]
    url = f"http://127.0.0.1:{port}"
    with server(command, f"{url}/health", folder, seconds, **{"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | env):
        yield url


def upload(s3, folder: Path, prefix: str) -> str:
    """Copies a folder to the bucket and returns its URI."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.upload_file(str(path), "bucket", f"{prefix}/{path.relative_to(folder).as_posix()}")
    return f"s3://bucket/{prefix}"


def how_it_ends(comparison: Any) -> str:
    """What a promotion of a measured version comes to: "promoted", or why it is refused."""
    from mlflow_resnet.errors import PromotionRefusedError
    from mlflow_resnet.registry import promotion

    try:
        promotion.promote_candidate(comparison, max_drop=1.0)
    except PromotionRefusedError as error:
        return error.message
    return "promoted"


def convert_source(source: Any, output_dir: Any, on_image: Callable[[], object] = lambda: None, **settings: Any) -> Any:
    """The result of `convert` with the options `settings`, without a run and a progress bar."""
    from mlflow_resnet.images.conversion import update
    from mlflow_resnet.options.convert import ConvertOptions

    return update.convert_source(ConvertOptions(source=source, output_dir=output_dir, **settings), output_dir, on_image)
