"""The options of `find-lr`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_resnet.options.base import AUTO, option
from mlflow_resnet.options.train import TrainOptions, train_only_problems


@dataclass(frozen=True, kw_only=True)
class FindLrOptions(TrainOptions):
    """Look for a learning rate: train on some batches at rising rates and log how the loss changes.

    Options of `train` on epochs, schedule, patience and time are accepted and play no part.
    """

    examples = "mlflow-resnet find-lr --train-dir flowers --architecture resnet50"

    lowest_rate: float = option("learning rate of the first step", 1e-7, above=0)
    highest_rate: float = option("learning rate of the last step; the test ends earlier if the loss diverges", 10.0)
    steps: int = option("batches, each trained on at a higher rate", 100, at_least=20)

    def combinations(self) -> Iterator[str]:
        yield from super().combinations()
        yield from train_only_problems(self)
        if not self.highest_rate > self.lowest_rate:
            yield f"highest_rate {self.highest_rate:g} is not above lowest_rate {self.lowest_rate:g}"
        if self.learning_rate != AUTO:
            yield "learning_rate is what find-lr looks for; leave it out"
        if self.registered_model_name:
            yield "find-lr makes no model; leave registered_model_name and alias out"
