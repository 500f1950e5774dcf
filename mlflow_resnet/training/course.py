"""How far a training has come, and its best epoch so far."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.options.metric_names import LOWER_IS_BETTER
from mlflow_resnet.training.trainer import Rate, Trainer


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


class Best:
    """A copy of the best epoch's weights.

    Args:
        metric: a metric of every epoch. Among equals the lower `val_loss` is better.
        patience: epochs without a new best after which `is_over`; 0 is never.
        delay: epochs that patience does not count.
    """

    def __init__(self, metric: str, patience: int = 0, delay: int = 0) -> None:
        self.metric, self.patience, self.delay = metric, patience, delay
        self.epoch = 0
        self.waiting_since = 0  # the epoch after which patience began
        self.score: tuple[float, ...] = (-math.inf, -math.inf)
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, metrics: dict[str, float], weights: dict[str, Tensor]) -> bool:
        """Copies the weights if this epoch is the best so far, and says whether it is."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        score = (sign * metrics[self.metric], -metrics["val_loss"])
        if score <= self.score:
            return False
        self.epoch, self.score = epoch, score
        self.weights = {key: tensor.detach().clone() for key, tensor in weights.items()}
        return True

    def state_dict(self) -> dict[str, Any]:
        numbers = {"epoch": self.epoch, "waiting_since": self.waiting_since, "score": list(self.score)}
        return numbers | {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.waiting_since = state["epoch"], state["waiting_since"]
        self.score, self.weights = tuple(state["score"]), dict(state["weights"])

    def is_over(self, epoch: int) -> bool:
        """Returns whether training ends with `epoch`."""
        return self.patience > 0 and epoch - max(self.epoch, self.waiting_since, self.delay) >= self.patience


@dataclass
class Course:
    """State that outlasts a phase.

    Attributes:
        deadline: of the time budget, as `perf_counter` counts; infinite if there is none.
        phase: the present one, from 0; `phase_began` after that many epochs.
        epoch: the last one that is finished.
        history: the numbers of each.
        newest: the result of the last epoch, and that of the best.
    """

    best: Best
    deadline: float
    phase: int = 0
    phase_began: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    newest: dict[str, EpochResult] = field(default_factory=dict)

    def begin_phase(self, number: int) -> None:
        self.phase, self.phase_began = number, self.epoch
        self.best.waiting_since = self.epoch

    def is_phase_over(self, trainer: Trainer) -> bool:
        """Returns whether the phase is over. It has at least one epoch."""
        done = self.epoch - self.phase_began
        return done > 0 and (done >= trainer.recipe.epochs or trainer.is_done() or self.best.is_over(self.epoch))

    def end_epoch(self, trainer: Trainer, metrics: dict[str, float], evaluation: Evaluation) -> EpochResult:
        """Takes in an epoch of the trainer, which begins to count anew. Returns its result, without the weights."""
        epoch = self.epoch + 1
        is_best = self.best.update(epoch, metrics, trainer.get_evaluation_weights())
        before = self.history[-1]["rates"][-1][0] if self.history else 0  # steps in finished epochs
        rates = [(before + step, rate, timestamp) for step, rate, timestamp in trainer.epoch.rates]
        result = EpochResult(epoch, metrics, evaluation, is_best, rates)
        names = ("epoch", "metrics", "is_best", "rates", "timestamp")
        self.history.append({name: getattr(result, name) for name in names})
        self.newest |= {"last": result} | ({"best": result} if is_best else {})
        self.epoch = epoch
        trainer.begin_epoch()
        return result

    def list_results_to_replay(self, trainer: Trainer) -> Iterator[EpochResult]:
        """Yields the best and the last result again after a resume; the last with its weights if it has just ended."""
        for result in {result.epoch: result for _, result in sorted(self.newest.items())}.values():
            has_weights = result.epoch == self.epoch and not trainer.epoch.iterations
            yield replace(result, weights=trainer.get_evaluation_weights()) if has_weights else result

    def state_dict(self) -> dict[str, Any]:
        results = self.newest.values()
        return {
            "phase": self.phase,
            "phase_began": self.phase_began,
            "epoch": self.epoch,
            "history": self.history,
            "newest": {name: result.epoch for name, result in self.newest.items()},
            "evaluations": {str(each.epoch): torch.from_numpy(each.evaluation.probabilities) for each in results},
            "best": self.best.state_dict(),
            "budget": {"seconds": self.deadline - perf_counter()},
        }

    def load_state_dict(self, state: Mapping[str, Any], classes: tuple[str, ...], targets: np.ndarray) -> None:
        """Undoes `state_dict`. `targets` are those of the validation images."""
        self.phase, self.phase_began, self.epoch = state["phase"], state["phase_began"], state["epoch"]
        self.history = list(state["history"])
        self.best.load_state_dict(state["best"])
        self.deadline = perf_counter() + state["budget"]["seconds"]
        by_epoch = {each["epoch"]: each for each in self.history}
        for name, epoch in state["newest"].items():
            evaluation = Evaluation(classes, targets, state["evaluations"][str(epoch)].numpy())
            self.newest[name] = EpochResult(evaluation=evaluation, **by_epoch[epoch])
