"""The options of `find-lr` and `sweep`: those of `train`, and their own."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import AUTO, HERE, option
from mlflow_resnet.options.train import TrainOptions


def problems_of_train_only(options: TrainOptions) -> list[str]:
    """Why a verb cannot use options that only `train` understands."""
    problems = []
    if options.processes > 1:
        problems.append(f"processes is {options.processes}, but {options.verb} trains in one process; leave it out")
    if options.offline:
        problems.append(f"offline is on, but {options.verb} needs the tracking server; leave it out")
    return problems


@dataclass(frozen=True, kw_only=True)
class FindLrOptions(TrainOptions):
    """Options of `find-lr`. Those of `train` on epochs, schedule, patience and time are accepted and play no part."""

    verb = "find-lr"

    lowest_rate: float = option("learning rate of the first step", 1e-7, above=0)
    highest_rate: float = option("learning rate of the last step; the test ends earlier if the loss diverges", 10.0)
    steps: int = option("batches, each trained on at a higher rate", 100, at_least=20)

    def combinations(self) -> list[str]:
        problems = super().combinations() + problems_of_train_only(self)
        if not self.highest_rate > self.lowest_rate:
            problems.append(f"highest_rate {self.highest_rate:g} is not above lowest_rate {self.lowest_rate:g}")
        if self.learning_rate != AUTO:
            problems.append("learning_rate is what find-lr looks for; leave it out")
        if self.registered_model_name:
            problems.append("find-lr makes no model; leave registered_model_name and alias out")
        return problems


@dataclass(frozen=True, kw_only=True)
class SweepOptions(TrainOptions):
    """Options of `sweep`. Those of `train` are fixed values of every trial."""

    verb = "sweep"

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

    def combinations(self) -> list[str]:
        problems = super().combinations() + problems_of_train_only(self)
        if not self.storage:
            problems.append("storage is empty; give a database, such as sqlite:///sweep.db")
        if self.registered_model_name and not self.retrain_best:
            problems.append("registered_model_name is given but retrain_best is false; leave one of them out")
        return problems
