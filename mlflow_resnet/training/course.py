"""How far a training has come, and how it becomes a checkpoint and comes back from one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.errors import OutputError
from mlflow_resnet.evaluation.evaluate import Evaluation
from mlflow_resnet.io.console import say
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import stage_of, stages_until
from mlflow_resnet.options.train import STAGES
from mlflow_resnet.training.best import Best
from mlflow_resnet.training.budget import Budget
from mlflow_resnet.training.checkpoints import CheckpointFolder, State
from mlflow_resnet.training.distributed import processes
from mlflow_resnet.training.epoch import EpochSoFar, Rate
from mlflow_resnet.training.optimizer import TENSORS_KEPT
from mlflow_resnet.training.recipe import Recipe
from mlflow_resnet.training.trainer import Trainer, is_finite

MAX_SHARE = 0.02  # of the time that checkpoints after epochs may take
NETWORK, OPTIMIZER, AVERAGE, BEST, EVALUATIONS, SUMS = "network", "optimizer", "average", "best", "evaluations", "sums"


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
    """What lasts longer than a phase.

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
        """Of the optimizer, in the epochs that are finished."""
        return self.history[-1]["rates"][-1][0] if self.history else 0

    def begin_phase(self, number: int) -> None:
        self.phase, self.phase_began = number, self.epoch
        self.best.begin_phase(self.epoch)

    def end_epoch(self, result: EpochResult) -> None:
        self.epoch = result.epoch
        self.history.append(facts_of(result))
        self.newest |= {"last": result} | ({"best": result} if result.is_best else {})

    def told_again(self, trainer: Trainer) -> Iterator[EpochResult]:
        """The results that whoever listens may not have heard, or needs; the last with its weights if it just ended."""
        for result in {result.epoch: result for _, result in sorted(self.newest.items())}.values():
            has_weights = result.epoch == self.epoch and not trainer.epoch.iterations
            yield replace(result, weights=trainer.evaluated_weights()) if has_weights else result

    def is_phase_over(self, epochs: int, trainer: Trainer) -> bool:
        """Whether the phase, which has `epochs` at most, is over. It has at least one."""
        done = self.epoch - self.phase_began
        return done > 0 and (done >= epochs or trainer.is_done() or self.best.is_over(self.epoch))


def facts_of(result: EpochResult) -> dict[str, Any]:
    """All but evaluation and weights."""
    names = ("epoch", "metrics", "is_best", "rates", "timestamp")
    return {name: getattr(result, name) for name in names}


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
        if self.folder is None:
            return False
        return self.after_every_epoch or perf_counter() - self.saved >= self.cost / MAX_SHARE

    def load(self) -> State | None:
        """The newest checkpoint, for all processes."""
        return processes.of_first(self.folder.load() if self.folder else None)

    def save(self, course: Course, trainer: Trainer) -> None:
        """Writes a checkpoint, unless there is one of this step already, or the weights have diverged.

        All processes call it, after the same step. One that cannot be written ends no training: it is told.
        """
        place = course.epoch, trainer.steps, bool(trainer.epoch.metrics)
        sums = trainer.epoch.sums if trainer.epoch.metrics else processes.summed(trainer.epoch.sums.clone())
        if self.folder is None or place == self.place or not is_finite(trainer.work.classifier.network):
            return
        started = perf_counter()
        try:
            number = self.folder.save(state_of(course, trainer, sums))
            self.on_saved(number)
            self.place = place
        except OutputError as error:
            say(f"no checkpoint was written: {error.message}", "those before it are kept, and the next is tried")
        self.saved = perf_counter()
        self.cost = self.saved - started


def state_of(course: Course, trainer: Trainer, sums: Tensor) -> State:
    """All that a training needs to go on from here.

    Args:
        sums: of the epoch so far, over all processes.
    """
    weights, best = course.best.state()
    tensors: dict[str, dict[str, Tensor]] = {
        NETWORK: dict(trainer.work.classifier.network.state_dict()),
        OPTIMIZER: optimizer_tensors(trainer),
        AVERAGE: dict(trainer.average.state_dict()) if trainer.average else {},
        BEST: weights,
        EVALUATIONS: {str(r.epoch): torch.from_numpy(r.evaluation.probabilities) for r in course.newest.values()},
        SUMS: {SUMS: sums},
    }
    facts = {
        "phase": course.phase,
        "phase_began": course.phase_began,
        "epoch": course.epoch,
        "history": course.history,
        "newest": {name: result.epoch for name, result in course.newest.items()},
        "best": best,
        "budget_seconds": course.budget.left(),
        "trainer": trainer_facts(trainer),
    }
    on_cpu = {part: {name: x.detach().cpu() for name, x in found.items()} for part, found in tensors.items()}
    return State(on_cpu, facts)


def checkpoint_bytes(classifier: ImageClassifier, recipe: Recipe, frozen_until: str, val_images: int) -> int:
    """About how large a checkpoint becomes."""
    network, is_probe = classifier.network, recipe.strategy == "linear_probe"
    frozen = stages_until(STAGES[-1] if is_probe else frozen_until)
    whole = sum(tensor.nbytes for tensor in network.state_dict().values())
    trained = sum(each.nbytes for name, each in network.named_parameters() if stage_of(name) not in frozen)
    average = (trained if is_probe else whole) if recipe.ema_decay else 0
    evaluations = 2 * val_images * len(classifier.classes) * np.dtype(np.float32).itemsize
    return 2 * whole + TENSORS_KEPT[recipe.optimizer] * trained + average + evaluations


def trainer_facts(trainer: Trainer) -> dict[str, Any]:
    so_far = {name: value for name, value in vars(trainer.epoch).items() if name != SUMS}
    return {
        "steps": trainer.steps,
        "parts": trainer.parts,
        "rate_factor": trainer.rate_factor,
        "fall_from": trainer.schedule.fall_from,
        "phase_seconds": trainer.schedule.seconds,
        "elapsed": perf_counter() - trainer.started,
        "validation_seconds": trainer.validation_seconds,
        "epoch": so_far,
    }


def restore_course(course: Course, state: State, classes: tuple[str, ...], targets: Any) -> None:
    """Undoes `state_of` for the course. `targets` are those of the validation images."""
    facts = state.facts
    course.phase, course.phase_began, course.epoch = facts["phase"], facts["phase_began"], facts["epoch"]
    course.history = list(facts["history"])
    course.best.restore(state.tensors[BEST], facts["best"])
    course.budget = Budget(facts["budget_seconds"])
    by_epoch = {each["epoch"]: each for each in course.history}
    for name, epoch in facts["newest"].items():
        evaluation = Evaluation(classes, targets, state.tensors[EVALUATIONS][str(epoch)].numpy())
        course.newest[name] = EpochResult(evaluation=evaluation, **by_epoch[epoch])


def restore_trainer(trainer: Trainer, state: State) -> None:
    """Undoes `state_of` for the trainer; the network has its weights already."""
    facts = state.facts["trainer"]
    trainer.steps, trainer.parts, trainer.rate_factor = facts["steps"], facts["parts"], facts["rate_factor"]
    trainer.schedule.fall_from, trainer.validation_seconds = facts["fall_from"], facts["validation_seconds"]
    trainer.started = perf_counter() - facts["elapsed"]
    sums = state.tensors[SUMS][SUMS].to(trainer.device)
    trainer.epoch = EpochSoFar(sums if processes.rank() == 0 else torch.zeros_like(sums), **facts["epoch"])
    if trainer.average:
        trainer.average.load_state_dict(dict(state.tensors[AVERAGE]))
    parameters = dict(trainer.work.module.named_parameters())
    for place, tensor in state.tensors[OPTIMIZER].items():
        name, _, key = place.rpartition(".")
        parameter = parameters[name]
        like = torch.empty_like(parameter) if tensor.shape == parameter.shape else tensor.to(trainer.device)
        trainer.optimizer.state[parameter][key] = like.copy_(tensor)


def optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """What the optimizer keeps of each parameter, such as `fc.weight.momentum_buffer`."""
    return {
        f"{name}.{key}": tensor
        for name, parameter in trainer.work.module.named_parameters()
        for key, tensor in trainer.optimizer.state.get(parameter, {}).items()
        if tensor is not None
    }
