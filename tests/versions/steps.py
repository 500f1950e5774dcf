"""What a user does from the first training to a served champion, one step after the other, with this interpreter.

`python steps.py FOLDER` needs only the package and what it requires, so it runs in any environment. It prints a line of
JSON for each step.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import requests
from PIL import Image

COLORS = {"blue": (20, 40, 200), "green": (30, 180, 40), "red": (210, 30, 20)}
SIZE = 32
NAME = "flowers"
STEPS = ("train", "record", "score", "evaluate", "promote", "predict", "serve", "serve_with_mlflow", "save")
READY_IN = 120  # seconds that a server may take to start


def make_images(folder: Path, per_class: int, seed: int) -> Path:
    """Makes class folders of pictures that differ in color."""
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            shade = tuple(min(255, part + 3 * (number + seed)) for part in color)
            Image.new("RGB", (SIZE + number, SIZE + 4), shade).save(folder / name / f"{seed}-{number}.png")
    return folder


def call(*words: object) -> str:
    """Runs our command line; returns what it prints.

    Raises:
        AssertionError: with that, if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_resnet", *map(str, words)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
    return done.stdout + done.stderr


class Steps:
    """The steps; each uses what those before it left.

    Attributes:
        folder: where images, outputs and models go.
        name: of the registered model.
        other: a model that another version of MLflow saved, if there is one.
    """

    def __init__(self, folder: Path, name: str, other: Path | None) -> None:
        self.folder, self.name, self.other = folder, name, other
        self.train_dir = make_images(folder / "train", 12, 0)
        self.val_dir = make_images(folder / "val", 4, 5)

    def find_champion(self) -> str:
        """The URI of the champion; of the newest version where the registry has no aliases."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            MlflowClient().get_model_version_by_alias(self.name, "champion")
        except MlflowException:
            found = MlflowClient().search_model_versions(f"name = '{self.name}'")
            return f"models:/{self.name}/{max(int(version.version) for version in found)}"
        return f"models:/{self.name}@champion"

    def train(self) -> None:
        """Registers a version with an alias."""
        self.train_version("champion", 0)

    def train_version(self, alias: str, seed: int) -> None:
        call(
            *("train", "--train-dir", self.train_dir, "--val-dir", self.val_dir, "--architecture", "resnet18"),
            *("--pretrained", "false", "--crop-size", SIZE, "--epochs", "2", "--registered-model-name", self.name),
            *("--alias", alias, "--random-seed", seed),
        )

    def record(self) -> None:
        """The run has its metrics, and the version comes from it."""
        from mlflow import MlflowClient

        client = MlflowClient()
        (version,) = client.search_model_versions(f"name = '{self.name}'")
        run = client.get_run(version.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["val_top1_accuracy"] >= 0, run.data.metrics
        assert len(client.get_metric_history(version.run_id, "train_loss")) == 2
        assert [found.info.run_id for found in client.search_runs([run.info.experiment_id])] == [version.run_id]

    def score(self) -> None:
        output = self.folder / "scored.parquet"
        call("score", "--model-uri", self.find_champion(), "--image-dir", self.val_dir, "--output", output)
        check_rows(pd.read_parquet(output), 12)

    def evaluate(self) -> None:
        call("evaluate", "--model-uri", self.find_champion(), "--image-dir", self.val_dir)

    def promote(self) -> None:
        """A second version becomes champion by evidence."""
        from mlflow import MlflowClient

        self.train_version("challenger", 1)
        call("promote", "--model-uri", f"models:/{self.name}/2", "--image-dir", self.val_dir, "--max-drop", "1")
        assert str(MlflowClient().get_model_version_by_alias(self.name, "champion").version) == "2"

    def measure(self) -> None:
        """A version gets its evidence, for a registry without aliases."""
        from mlflow import MlflowClient

        words = ("--model-uri", f"models:/{self.name}/1", "--image-dir", self.val_dir, "--measure-only", "true")
        call("promote", *words)
        tags = MlflowClient().get_model_version(self.name, "1").tags
        assert any(key.startswith("mlflow_resnet_evidence") for key in tags), tags

    def predict(self) -> None:
        """In Python, with each form of input that a script has."""
        import mlflow

        model = mlflow.pyfunc.load_model(self.find_champion())
        picture = next(self.val_dir.rglob("*.png"))
        for given, rows in ((str(self.val_dir), 12), (picture.read_bytes(), 1), ([str(picture)] * 2, 2)):
            check_rows(model.predict(given), rows)
        assert list(model.predict(str(picture), params={"top_k": 2}).columns)[-1] == "error"

    def serve(self) -> None:
        with server([sys.executable, "-m", "mlflow_resnet", "serve", self.find_champion(), "--port"]) as url:
            self.ask(url)

    def serve_with_mlflow(self) -> None:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
        with server([*command, "--model-uri", self.find_champion(), "--port"]) as url:
            self.ask(url)

    def ask(self, url: str) -> None:
        """Good pictures, a bad one among them, and a path, which no server takes."""
        pictures = [base64.b64encode(path.read_bytes()).decode() for path in list(self.val_dir.rglob("*.png"))[:2]]
        bad = base64.b64encode(b"no picture").decode()
        answer = requests.post(f"{url}/invocations", json={"inputs": [*pictures, bad]}, timeout=60)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        assert [bool(row["error"]) for row in rows] == [False, False, True], rows
        refused = requests.post(f"{url}/invocations", json={"inputs": ["/etc/passwd"]}, timeout=60)
        assert refused.status_code == 400 or refused.json()["predictions"][0]["error"], refused.text

    def save(self) -> None:
        """A model for another version to load, with what it predicts.

        It is downloaded from where it is kept: downloaded as a registered version, it would be compared with the
        version of that name and number in the registry of whoever loads it.
        """
        import mlflow

        from mlflow_resnet.registry.versions import resolve

        source = resolve(self.find_champion()).source
        found = mlflow.artifacts.download_artifacts(source, dst_path=str(self.folder / "download"))
        Path(found).rename(self.folder / "model")
        model = mlflow.pyfunc.load_model(str(self.folder / "model"))
        model.predict(str(self.val_dir)).to_csv(self.folder / "model" / "expected.csv", index=False)

    def load_other(self) -> None:
        """The model that another version saved predicts the same here."""
        import mlflow

        frame = mlflow.pyfunc.load_model(str(self.other)).predict(str(self.val_dir))
        expected = pd.read_csv(self.other / "expected.csv")
        columns = [name for name in frame.columns if name.startswith("Scored Prob")]
        assert (frame[columns] - expected[columns]).abs().to_numpy().max() < 1e-4


def check_rows(frame: pd.DataFrame, rows: int) -> None:
    assert len(frame) == rows, frame
    assert set(frame["Scored Labels"]) <= set(COLORS), frame
    assert not any(frame["error"]), frame


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[str]:
    """A server that is started with a free port behind the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", Path(f"server-{port}.log")
    with log.open("w") as output:
        process = subprocess.Popen([*command, str(port)], stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + READY_IN
        while not is_up(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.3)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended already
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default=NAME, help="of the registered model")
    parser.add_argument("--other-model", type=Path)
    parser.add_argument("--only", nargs="*", default=STEPS, help="steps; the others are left out")
    asked = parser.parse_args()
    steps = Steps(asked.folder, asked.name, asked.other_model)
    for name in asked.only:
        began = time.monotonic()
        try:
            getattr(steps, name)()
            problem = ""
        except Exception as error:
            problem = "".join(traceback.format_exception_only(error)).strip()
        facts = {"step": name, "problem": problem, "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
