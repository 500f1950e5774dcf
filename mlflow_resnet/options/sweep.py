"""The options of `sweep`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_resnet.options.base import HERE, option
from mlflow_resnet.options.train import TrainOptions, train_only_problems


@dataclass(frozen=True, kw_only=True)
class SweepOptions(TrainOptions):
    """Search for the best options: many trainings, each a child run of one run; train with the best once more.

    The same command goes on where it stopped. Several of them share the work. Options of `train` are fixed values of
    every trial.
    """

    examples = """
    mlflow-resnet sweep --train-dir flowers --architecture resnet50 --trials 30 --sweep-minutes 120 \\
        --registered-model-name flowers

    A search space, for --search-space FILE:
    learning_rate: {low: 1e-4, high: 0.1, log: true}
    batch_size: {low: 16, high: 64, step: 16}
    optimizer: [sgd, adamw]
    """

    search_space: str = option(
        "YAML file that maps options of train to values: a list, or {low, high} with log: true or step; "
        "empty: learning rate, weight decay and others around the strategy's defaults",
        "",
        place=HERE,
    )
    trials: int = option("trials in all, those of earlier calls included", 20, at_least=1)
    sweep_minutes: float = option(
        "end the trials after this time; to retrain the best comes on top; 0: no limit", 0.0, at_least=0
    )
    storage: str = option("database of Optuna, from which the same command goes on", "sqlite:///sweep.db")
    study_name: str = option("name of the study in it; empty: one of its own for each set of images and options", "")
    pruning: bool = option("end a trial that is worse than the median of the others at the same epoch", True)
    retrain_best: bool = option("train once more with the best values, log the model, register it", True)

    def combinations(self) -> Iterator[str]:
        yield from super().combinations()
        yield from train_only_problems(self)
        if not self.storage:
            yield "storage is empty; give a database, such as sqlite:///sweep.db"
        if self.registered_model_name and not self.retrain_best:
            yield "registered_model_name is given but retrain_best is false; leave one of them out"
