"""The real command, started in a folder of its own and hurt."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import mlflow
from helpers import TINY, flags, run_cli, start_cli
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

T = TypeVar("T")
ITERATION = re.compile(r"epoch (\d+)/\d+  iteration (\d+)/")


def cases(every: Iterable[T], few: int) -> list[T]:
    """All of them; where KILLS asks for fewer kills, only the first `few`."""
    return list(every)[: few if "KILLS" in os.environ else None]


@dataclass
class Row:
    """A fault, how many times it was inflicted, what was promised, and what happened."""

    fault: str
    promised: str
    happened: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.happened.append(what)

    def summary(self) -> str:
        counts = {what: self.happened.count(what) for what in dict.fromkeys(self.happened)}
        return "; ".join(what if count == len(self.happened) else f"{count} x {what}" for what, count in counts.items())


@dataclass
class Place:
    """A working directory with images and a tracking database."""

    path: Path
    options: dict[str, object]

    def run(self, **changes: object) -> subprocess.CompletedProcess[str]:
        """Trains to the end."""
        return run_cli("train", *flags(self.options | changes), cwd=self.path)

    @contextlib.contextmanager
    def started(self, launcher: Sequence[str] = (), **changes: object) -> Iterator[subprocess.Popen[str]]:
        """A training that goes on meanwhile, in a session of its own, and that does not outlive the block."""
        arguments = flags(self.options | changes)
        with start_cli("train", *arguments, launcher=launcher, cwd=self.path, start_new_session=True) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    @property
    def folder(self) -> Path:
        """That of the checkpoints."""
        return self.path / str(self.options["checkpoint_dir"])

    def checkpoints(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("[0-9]*") if path.name.isdigit())

    def weights(self) -> str:
        """SHA-256 of the weights of the one model that was kept."""
        (kept,) = [sha256 for name, sha256 in self.models() if name == "model"]
        return kept

    def models(self) -> list[tuple[str, str]]:
        """(name, SHA-256 of the weights) of each model, those of epochs too."""
        return sorted((model.name, sha256_of(model)) for model in self.client().search_logged_models(["0"]))

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.path}/mlflow.db")

    def runs(self) -> list[mlflow.entities.Run]:
        return list(self.client().search_runs(["0"]))

    def curve(self, metric: str = "val_loss") -> list[tuple[int, float]]:
        """(step, value) of every point of the one run that there is, in the order of the steps."""
        (run,) = self.runs()
        history = self.client().get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in history)


def sha256_of(model: LoggedModel) -> str:
    """Of the weights of a model, which must be ready."""
    assert model.status == "READY"
    path = Path(mlflow.artifacts.download_artifacts(model.artifact_location)) / "MLmodel"
    found = re.search(r"model_sha256: (\w+)", path.read_text())
    assert found
    return found[1]


def wait_for_iteration(process: subprocess.Popen[str], number: int) -> str:
    """Reads what a training says until `number` steps are done, counted over all epochs; returns it."""
    said, seen = "", 0
    assert process.stderr
    for line in process.stderr:
        said += line
        seen += bool(ITERATION.search(line))
        if seen == number:
            return said
    raise AssertionError(f"it ended before step {number}:\n{said}")


def place_in(path: Path, database: Path, images: Path, **changes: object) -> Place:
    """A working directory for trainings with a checkpoint after every epoch and every half second."""
    path.mkdir()
    shutil.copy(database, path / "mlflow.db")
    options = {"train_dir": images / "train", "val_dir": images / "val"} | TINY
    options |= {"epochs": 4, "print_frequency": 1, "checkpoint_minutes": 0.01, "checkpoint_dir": "saved"}
    return Place(path, options | changes)
