"""Progress of a training, and its conversion to and from checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.training.best import Best
from mlflow_resnet.training.budget import Budget
from mlflow_resnet.training.checkpoints import State
from mlflow_resnet.training.epoch import Rate
from mlflow_resnet.training.trainer import Trainer

CHECKPOINT_FORMAT = 2  # of the state in a checkpoint; that of 0.1.0 has no number, and counts as 1


@dataclass(frozen=True)
class EpochResult:
    """One epoch's numbers. `epoch` counts from 1; metrics are fractions, mean losses in nats, and images per second.

    Attributes:
        rates: learning rates of some steps, which are counted over all epochs; that of the last step among them.
        timestamp: when the epoch ended, in milliseconds since 1970.
        weights: state_dict of the network that was evaluated, until the training goes on; empty if they are gone.
    """

    epoch: int
    metrics: dict[str, float]
    evaluation: Evaluation
    is_best: bool
    rates: Sequence[Rate]
    timestamp: int = field(default_factory=lambda: int(time.time() * 1000))
    weights: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Course:
    """State that outlasts a phase.

    Attributes:
        phase: the present one, from 0; `phase_began` after that many epochs.
        epoch: the last one that is finished.
        history: the numbers of each.
        newest: the result of the last epoch, and that of the best.
    """

    best: Best
    budget: Budget
    phase: int = 0
    phase_began: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    newest: dict[str, EpochResult] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of optimizer steps in finished epochs."""
        return self.history[-1]["rates"][-1][0] if self.history else 0

    def begin_phase(self, number: int) -> None:
        self.phase, self.phase_began = number, self.epoch
        self.best.begin_phase(self.epoch)

    def end_epoch(self, result: EpochResult) -> None:
        self.epoch = result.epoch
        self.history.append(collect_epoch_facts(result))
        self.newest |= {"last": result} | ({"best": result} if result.is_best else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "phase_began": self.phase_began,
            "epoch": self.epoch,
            "history": self.history,
            "newest": {name: result.epoch for name, result in self.newest.items()},
            "evaluations": {
                str(result.epoch): torch.from_numpy(result.evaluation.probabilities) for result in self.newest.values()
            },
            "best": self.best.state_dict(),
            "budget": self.budget.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], classes: tuple[str, ...], targets: np.ndarray) -> None:
        """Undoes `state_dict`. `targets` are those of the validation images."""
        self.phase, self.phase_began, self.epoch = state["phase"], state["phase_began"], state["epoch"]
        self.history = list(state["history"])
        self.best.load_state_dict(state["best"])
        self.budget.load_state_dict(state["budget"])
        by_epoch = {each["epoch"]: each for each in self.history}
        for name, epoch in state["newest"].items():
            evaluation = Evaluation(classes, targets, state["evaluations"][str(epoch)].numpy())
            self.newest[name] = EpochResult(evaluation=evaluation, **by_epoch[epoch])

    def list_results_to_replay(self, trainer: Trainer) -> Iterator[EpochResult]:
        """Yields the best and the last result again after a resume; the last with its weights if it has just ended."""
        for result in {result.epoch: result for _, result in sorted(self.newest.items())}.values():
            has_weights = result.epoch == self.epoch and not trainer.epoch.iterations
            yield replace(result, weights=trainer.get_evaluation_weights()) if has_weights else result

    def is_phase_over(self, epochs: int, trainer: Trainer) -> bool:
        """Returns whether the phase, of at most `epochs`, is over. It has at least one."""
        done = self.epoch - self.phase_began
        return done > 0 and (done >= epochs or trainer.is_done() or self.best.is_over(self.epoch))


def collect_epoch_facts(result: EpochResult) -> dict[str, Any]:
    """All but evaluation and weights."""
    names = ("epoch", "metrics", "is_best", "rates", "timestamp")
    return {name: getattr(result, name) for name in names}


def collect_state(course: Course, trainer: Trainer) -> dict[str, Any]:
    """Returns all that a training needs to go on from here. All processes call it, after the same step."""
    return {
        "format": CHECKPOINT_FORMAT,
        "network": dict(trainer.work.classifier.network.state_dict()),
        "course": course.state_dict(),
        "trainer": trainer.state_dict(),
    }


def upgrade_state(old: State) -> dict[str, Any]:
    """Arranges a checkpoint of format 1 as `collect_state` does."""
    facts, tensors, trainer = old.facts, old.tensors, old.facts["trainer"]
    return {
        "format": CHECKPOINT_FORMAT,
        "network": tensors["network"],
        "course": {name: facts[name] for name in ("phase", "phase_began", "epoch", "history", "newest")}
        | {
            "evaluations": tensors["evaluations"],
            "best": facts["best"] | {"weights": tensors["best"]},
            "budget": {"seconds": facts["budget_seconds"]},
        },
        "trainer": {name: trainer[name] for name in ("steps", "parts", "rate_factor", "validation_seconds", "elapsed")}
        | {
            "schedule": {"fall_from": trainer["fall_from"], "seconds": trainer["phase_seconds"]},
            "epoch": trainer["epoch"] | tensors["sums"],
            "optimizer": tensors["optimizer"],
            "average": tensors["average"],
        },
    }
