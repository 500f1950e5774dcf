"""The learning rate range test: how the loss changes while the rate rises (https://arxiv.org/abs/1506.01186).

Steps, smoothing, and when the loss counts as diverged are those of fastai's `lr_find`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.options.find_lr import FindLrOptions
from mlflow_resnet.training.loop import deterministic_cudnn, prepare_network
from mlflow_resnet.training.optimizer import Schedule
from mlflow_resnet.training.progress import TrainingProgress
from mlflow_resnet.training.recipe import phases
from mlflow_resnet.training.trainer import Trainer
from mlflow_resnet.training.work import Plan, build_work

SMOOTHING = 0.98  # share of the earlier losses in the smoothed one
DIVERGED = 4.0  # times the lowest smoothed loss
NOISY_SHARE = 0.1  # of the steps, at the beginning, where the smoothed loss is the mean of a few batches
MIN_POINTS = 5


class RisingRates(Schedule):
    """Rises exponentially from `lowest` at the first step to `highest` at the last."""

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        super().__init__("constant", highest, steps, warmup_steps=0)
        self.lowest = lowest

    def progress(self, step: int, elapsed: float = 0.0) -> float:
        """Always 0: every step is one of the beginning of a training, with mixup and cutmix if they are on."""
        return 0.0

    def rate(self, step: int, elapsed: float = 0.0) -> float:
        return self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1))


@dataclass(frozen=True)
class RatePoint:
    """One step: its rate, and the mean loss of its batch, in nats, before the weights changed."""

    step: int
    learning_rate: float
    loss: float
    smoothed_loss: float


@dataclass(frozen=True)
class Suggestion:
    """Learning rates that a test suggests.

    Attributes:
        tenth_of_minimum: an order of magnitude below the rate with the lowest loss, where the loss clearly falls and
            is far from rising. The one to take (Howard and Gugger, Deep Learning for Coders, chapter 5).
        steepest: where, before its minimum, the loss falls fastest over the logarithm of the rate; noise moves it more.
        note: a sentence if the loss had no minimum between the lowest and the highest rate; else empty.
    """

    tenth_of_minimum: float
    steepest: float
    note: str


def rate_points(plan: Plan, options: FindLrOptions) -> Iterator[RatePoint]:
    """Trains the last phase of the recipe at rising rates, through the images as often as it takes.

    Ends after `options.steps`, or when the loss diverges. The classifier is of no use afterwards.
    """
    phase = phases(plan.recipe)[-1]
    with deterministic_cudnn():
        work = build_work(phase, plan, options, prepare_network(plan.classifier, options))
        trainer = Trainer(work, phase, options, TrainingProgress(1), math.inf)
        trainer.schedule = RisingRates(options.lowest_rate, options.highest_rate, options.steps)
        work.train_mode()
        batches = chain.from_iterable(work.batches(epoch, phase.batch_size) for epoch in count(1))
        average, lowest = 0.0, math.inf
        for step, (images, targets) in enumerate(islice(batches, options.steps), start=1):
            loss = trainer.step(images, targets)[0].item() / len(targets)
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING**step)
            lowest = min(lowest, smoothed)
            if not smoothed <= DIVERGED * lowest:  # NaN is not either
                return
            yield RatePoint(step, trainer.epoch.learning_rate, loss, smoothed)


def suggest_rates(points: Sequence[RatePoint], options: FindLrOptions) -> Suggestion:
    """Returns the learning rates that the points suggest.

    Raises:
        InvalidOptionsError: if the loss diverged before there were enough of them.
    """
    kept = points[int(NOISY_SHARE * options.steps) :]
    if len(kept) < MIN_POINTS:
        rate = points[-1].learning_rate if points else options.lowest_rate
        raise InvalidOptionsError([f"the loss diverged at learning rate {rate:g} already; give a lower lowest_rate"])
    rates, losses = np.array([(point.learning_rate, point.smoothed_loss) for point in kept]).T
    lowest = int(losses.argmin())
    steepest = float(rates[np.gradient(losses, np.log(rates))[: lowest + 1].argmin()])
    note = ""
    if lowest == 0:
        note = "the loss never fell, so do not trust this; give a lower lowest_rate or more steps"
    elif len(points) == options.steps and lowest == len(kept) - 1:
        note = "the loss fell until the end; give a higher highest_rate"
    return Suggestion(float(rates[lowest]) / 10, steepest, note)
