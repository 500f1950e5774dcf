"""The folder of one training's checkpoints: whose it is, whether it may go on, and what became of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import torch

from mlflow_resnet.console import say
from mlflow_resnet.errors import CheckpointError, listed
from mlflow_resnet.images.output import locked, new_file, output_errors
from mlflow_resnet.images.sources import is_remote
from mlflow_resnet.options import WITHOUT_EFFECT, TrainOptions
from mlflow_resnet.preparation import Training
from mlflow_resnet.training.checkpoints import CheckpointFolder, write_file
from mlflow_resnet.training.course import Saving
from mlflow_resnet.training.recipe import phases

ROOT = "checkpoints"
RECORD = "training.json"
DIRECTORIES = ("train_dir", "val_dir")
# What a checkpoint has no place for if it changes.
FIXED = frozenset(("architecture", "classes", "phases", "chosen optimizer", "averaged weights", "validation images"))


@contextmanager
def training_folder(options: TrainOptions) -> Iterator[TrainingFolder | None]:
    """The folder that the options name, for this process alone; None if they want no checkpoints.

    Raises:
        OutputError: if it cannot be written.
        CheckpointError: if another training is using it.
    """
    if not options.checkpoint_minutes:
        yield None
        return
    path = Path(options.checkpoint_dir or default_folder(options)).absolute()
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        write_file(path / ".writable", b"")
        (path / ".writable").unlink()
    with locked(path, path, CheckpointError):
        yield TrainingFolder(path, options)


def default_folder(options: TrainOptions) -> str:
    """A folder below the current one for this command."""
    digest = hashlib.sha256(json.dumps(identity_of(options), sort_keys=True).encode()).hexdigest()
    return os.path.join(ROOT, f"{options.architecture}-{digest[:12]}")


def identity_of(options: TrainOptions) -> dict[str, Any]:
    """What makes a training this one and no other, as far as it is known before it looks at the images."""
    chosen = {name: value for name, value in asdict(options).items() if name not in WITHOUT_EFFECT | {"audit"}}
    for name in DIRECTORIES:
        if chosen[name] and not is_remote(chosen[name]):
            chosen[name] = os.path.realpath(chosen[name])
    return chosen | {"tracking server": mlflow.get_tracking_uri()}


def full_identity_of(options: TrainOptions, training: Training) -> dict[str, Any]:
    """The same with all that decides the bits of the weights."""
    return identity_of(options) | {
        "training images": training.train_set.digest,
        "validation images": training.val_set.digest,
        "torch threads": torch.get_num_threads(),
        "torch version": torch.__version__,
        "classes": list(training.train_set.directory.class_names),
        "phases": [phase.strategy for phase in phases(training.recipe)],
        "chosen optimizer": training.recipe.optimizer,
        "averaged weights": bool(training.recipe.ema_decay),
    }


class TrainingFolder:
    """Checkpoints of a training, and a record of it: its identity, its run and model, and its result at the end."""

    def __init__(self, path: Path, options: TrainOptions) -> None:
        self.path = path
        self.checkpoints = CheckpointFolder(path)
        self.saving = Saving(self.checkpoints, options.checkpoint_minutes, options.on_divergence == "rewind")
        self.record = self.read()

    def begin(self, identity: Mapping[str, Any], resume: str) -> None:
        """Finds out whether to go on with what is here, and makes the folder that of this training.

        Raises:
            CheckpointError: if what is here is of another training, and was not finished.
        """
        changed = differences(self.record.get("identity", {}), identity)
        unfinished = bool(self.checkpoints.numbers()) and not self.is_finished
        if resume == "never" or (changed and not unfinished):
            self.checkpoints.clear()
            self.record = {}
        elif unfinished:
            if resume == "auto":
                self.refuse(changed, "Give these again to go on with it, or --resume force to go on with the new ones,")
            self.refuse({name: text for name, text in changed.items() if name in FIXED}, "Give these again,")
            say(f"going on from the checkpoint in {self.path}")
        self.note(identity=dict(identity))

    def refuse(self, changed: Mapping[str, str], remedy: str) -> None:
        """Raises an error if anything has changed."""
        if changed:
            what = f"holds an unfinished training with other settings: {listed(changed.values())}"
            raise CheckpointError(self.path, f"{what}. {remedy} or --resume never to begin anew")

    @property
    def is_finished(self) -> bool:
        return "result" in self.record

    def model_begun_in(self, run_id: str) -> str:
        """The id of the logged model that an interrupted training has begun in this run; empty if there is none."""
        if self.record.get("run_id") != run_id:
            self.note(run_id=run_id, model_id="")
        return self.record["model_id"]

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keeps the result, and no checkpoints."""
        self.note(result=dict(result))
        self.checkpoints.clear()

    def note(self, **facts: Any) -> None:
        """Adds to the record, which is on the disk when this returns."""
        self.record |= facts
        with new_file(self.path / RECORD) as partial:
            write_file(partial, json.dumps(self.record, indent=1).encode())

    def read(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / RECORD).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CheckpointError(self.path / RECORD, f"cannot be read ({error}). Remove the folder") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Name -> what is not the same, in words."""
    names = [name for name in now if name in before and before[name] != now[name]]
    return {name: f"{name} was {before[name]!r} and is {now[name]!r}" for name in names}
