"""When a training writes checkpoints, and how it reads the newest one back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from mlflow_resnet.errors import CheckpointError, OutputError
from mlflow_resnet.io.console import say
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import shorten_value
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.hardware import is_out_of_memory
from mlflow_resnet.model.network import find_stage, stages_until
from mlflow_resnet.options.train import STAGES
from mlflow_resnet.training import processes
from mlflow_resnet.training.checkpoints import CheckpointFolder, State, join_state, split_state
from mlflow_resnet.training.course import Course
from mlflow_resnet.training.optimizer import TENSORS_KEPT
from mlflow_resnet.training.recipe import Recipe
from mlflow_resnet.training.trainer import Trainer, has_finite_weights

CHECKPOINT_FORMAT = 2  # of the state in a checkpoint; that of 0.1.0 has no number, and counts as 1
MAX_SHARE = 0.02  # of the time that checkpoints after epochs may take


@dataclass
class Saving:
    """When checkpoints are written: every `minutes`, and after an epoch if that costs less than MAX_SHARE of the time.

    Attributes:
        folder: None: no checkpoints, or they are another process's matter.
        after_every_epoch: whatever it costs.
        on_saved: is told the number of each checkpoint.
    """

    folder: CheckpointFolder | None = None
    minutes: float = 0.0
    after_every_epoch: bool = False
    on_saved: Callable[[int], object] = lambda number: None
    cost: float = 1.0  # seconds that the last one took; a guess before the first
    saved: float = field(default_factory=perf_counter)
    place: tuple[int, int, bool] | None = None

    def is_due(self) -> bool:
        return self.folder is not None and perf_counter() - self.saved >= self.minutes * 60

    def is_due_after_epoch(self) -> bool:
        is_cheap = perf_counter() - self.saved >= self.cost / MAX_SHARE
        return self.folder is not None and (self.after_every_epoch or is_cheap)

    def load(self) -> dict[str, Any] | None:
        """Returns the state in the newest checkpoint, for all processes; None if there is none.

        Raises:
            CheckpointError: if all are damaged, or the newest is of a newer mlflow_resnet or of something else.
        """
        state = None
        if self.folder and (read := self.folder.load()):
            found = read.facts.get("format", 1)
            if found not in (1, CHECKPOINT_FORMAT):
                what = f"its newest checkpoint has format {shorten_value(found)}"
                reads = f"this mlflow_resnet reads up to {CHECKPOINT_FORMAT}"
                remedy = "Go on with the version that wrote it, or give --resume never to begin anew"
                raise CheckpointError(self.folder.path, f"{what}; {reads}. {remedy}")
            with self.refuse_others():
                state = upgrade_state(read) if found == 1 else join_state(read)
        return processes.broadcast_first(state)

    @contextlib.contextmanager
    def refuse_others(self) -> Iterator[None]:
        """Around the use of a checkpoint that is as it was written, but perhaps by something else.

        Raises:
            CheckpointError: if it is not one of this training.
        """
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            what = f"its newest checkpoint is of something else ({type(error).__name__}: {one_line(error)})"
            where = self.folder.path if self.folder else "checkpoints"
            raise CheckpointError(where, f"{what}. To begin anew, give --resume never") from None

    def save(self, course: Course, trainer: Trainer) -> None:
        """Writes a checkpoint, unless there is one of this step already, or the weights have diverged.

        All processes call it, after the same step. One that cannot be written ends no training: it is told.
        """
        state = {
            "format": CHECKPOINT_FORMAT,
            "network": dict(trainer.work.classifier.network.state_dict()),
            "course": course.state_dict(),
            "trainer": trainer.state_dict(),
        }
        place = course.epoch, trainer.steps, bool(trainer.epoch.metrics)
        if self.folder is None or place == self.place or not has_finite_weights(trainer.work.classifier.network):
            return
        started = perf_counter()
        try:
            number = self.folder.save(split_state(state))
            self.on_saved(number)
            self.place = place
        except OutputError as error:
            say(f"no checkpoint was written: {error.message}", "those before it are kept, and the next is tried")
        self.saved = perf_counter()
        self.cost = self.saved - started


def upgrade_state(old: State) -> dict[str, Any]:
    """Arranges a checkpoint of format 1 as `save` does."""
    facts, tensors, trainer = old.facts, old.tensors, old.facts["trainer"]
    best = facts["best"] | {"weights": tensors["best"]}
    course = {name: facts[name] for name in ("phase", "phase_began", "epoch", "history", "newest")}
    course |= {"evaluations": tensors["evaluations"], "best": best, "budget": {"seconds": facts["budget_seconds"]}}
    names = ("steps", "parts", "rate_factor", "validation_seconds", "elapsed")
    upgraded = {name: trainer[name] for name in names} | {
        "schedule": {"fall_from": trainer["fall_from"], "seconds": trainer["phase_seconds"]},
        "epoch": trainer["epoch"] | tensors["sums"],
        "optimizer": tensors["optimizer"],
        "average": tensors["average"],
    }
    return {"format": CHECKPOINT_FORMAT, "network": tensors["network"], "course": course, "trainer": upgraded}


def checkpoint_bytes(classifier: ImageClassifier, recipe: Recipe, frozen_until: str, val_images: int) -> int:
    """About how large a checkpoint becomes."""
    network, is_probe = classifier.network, recipe.strategy == "linear_probe"
    frozen = stages_until(STAGES[-1] if is_probe else frozen_until)
    whole = sum(tensor.nbytes for tensor in network.state_dict().values())
    trained = sum(each.nbytes for name, each in network.named_parameters() if find_stage(name) not in frozen)
    average = (trained if is_probe else whole) if recipe.ema_decay else 0
    evaluations = 2 * val_images * len(classifier.classes) * np.dtype(np.float32).itemsize
    return 2 * whole + TENSORS_KEPT[recipe.optimizer] * trained + average + evaluations
