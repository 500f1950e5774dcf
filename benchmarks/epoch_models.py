"""What `--epoch-models true` costs on a server that passes artifacts on: requests, files and seconds of a training.

Beside this version another one, `--peer FOLDER`, such as a git worktree of an earlier commit. The server is a real one
with one worker, which keeps artifacts on its disk, and its access log says what was asked of it. Images are tiny, so
that little time is the network's. Afterwards one of the models is loaded from the server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from alternate import Measurement, alternate, print_machine, print_table, ratio, spread, values_of
from command import common
from gate import server

ROOT = Path(__file__).parents[1]
IMAGES = 64  # in training, and as many in validation
SETTING = ["--architecture", "resnet18", "--pretrained", "false", "--resize-size", "36", "--crop-size", "32"]
LOAD = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1])"
REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/1')  # in an access log
NOW, BEFORE = "ours", "ours, the other version"
REQUESTS, UPLOADS, FILES, SIZE = "requests", "uploads", "files a model", "MB in all"
SECONDS, DOWNLOADS, LOADING = "seconds", "requests of a load", "seconds of a load"
DIGITS = {SECONDS: 1, SIZE: 1, LOADING: 1}


def measure(checkout: Path, epochs: int, images: tuple[Path, Path], _: int) -> Measurement:
    """Trains with the package in `checkout`, and loads the model of the first epoch."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server", "") as api:
        log, env = Path(folder) / "server" / "log", os.environ | {"PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}
        env |= {"MLFLOW_TRACKING_URI": api.removesuffix("/api/2.0/mlflow"), "MLFLOW_DISABLE_TELEMETRY": "true"}
        folders = ["--train-dir", str(images[0]), "--val-dir", str(images[1])]
        train = ["-m", "mlflow_resnet", "train", *folders, *SETTING, "--epochs", str(epochs), "--epoch-models", "true"]
        before = len(read_requests(log))
        seconds = run_python(train, folder, env)
        asked = read_requests(log)[before:]
        artifacts = Path(folder) / "server" / "mlartifacts"
        models = [path.parent for path in artifacts.rglob("MLmodel")]
        before = before + len(asked)
        loading = run_python(["-c", LOAD, f"models:/{models[0].parent.name}"], folder, env)
        return {
            REQUESTS: len(asked),
            UPLOADS: sum(method == "PUT" and "/mlflow-artifacts/" in path for method, path in asked),
            FILES: sum(path.is_file() for path in models[0].rglob("*")),
            SIZE: sum(path.stat().st_size for path in artifacts.rglob("*") if path.is_file()) / 1e6,
            SECONDS: seconds,
            DOWNLOADS: len(read_requests(log)) - before,
            LOADING: loading,
        }


def run_python(arguments: list[str], folder: str, env: dict[str, str]) -> float:
    """Returns the seconds that it took."""
    begun = perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=env, check=True, capture_output=True)
    return perf_counter() - begun


def read_requests(log: Path) -> list[tuple[str, str]]:
    """Method and path of every request in an access log."""
    return REQUEST.findall(log.read_text())


@click.command(help=__doc__)
@common
@click.option("--epochs", default=40, show_default=True)
@click.option("--peer", type=click.Path(path_type=Path, exists=True, resolve_path=True), help="another checkout")
def main(
    data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any], epochs: int, peer: Path | None
) -> None:
    import data

    print_machine()
    epochs, repetitions = (2, 1) if quick else (epochs, repetitions)
    split = data.prepared(data_dir.resolve(), "digits")
    images = tuple(data.with_count(part, IMAGES, data_dir.resolve()) for part in (split.train, split.val))
    checkouts = {NOW: ROOT} | ({BEFORE: peer} if peer else {})
    found = alternate({name: partial(measure, path, epochs, images) for name, path in checkouts.items()}, repetitions)
    columns = (REQUESTS, UPLOADS, FILES, SIZE, SECONDS, DOWNLOADS, LOADING)
    rows = [[n, *(spread(values_of(found[n], c), DIGITS.get(c, 0)) for c in columns)] for n in checkouts]
    if peer:
        rows.append(["ratio", *(ratio(*(values_of(found[name], column) for name in checkouts)) for column in columns)])
    print_table(f"{epochs} epochs with --epoch-models true", ["", *columns], rows)


if __name__ == "__main__":
    main()
