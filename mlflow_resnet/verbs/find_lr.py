"""The learning rate range test in a run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import mlflow
import pandas as pd
from tqdm import tqdm

from mlflow_resnet.evaluation.figures import learning_rate_figure
from mlflow_resnet.images.layout import name_data_set
from mlflow_resnet.io.console import say
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options.find_lr import FindLrOptions
from mlflow_resnet.runs.preparation import check_options, prepare_training
from mlflow_resnet.runs.training import all_params, log_beginning
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import end_attached_run, enter_run
from mlflow_resnet.training.rate_test import RatePoint, Suggestion, rate_points, suggest_rates
from mlflow_resnet.training.recipe import phases


@dataclass(frozen=True)
class LearningRateTest:
    """Result of `find_lr`. `strategy` is that of the tested phase."""

    run_id: str
    strategy: str
    points: Sequence[RatePoint]
    suggestion: Suggestion


def find_lr(options: FindLrOptions) -> LearningRateTest:
    """Trains on some batches at rising learning rates and logs the loss at each. No model is saved.

    If the strategy has several phases, the last one is tested, from the classifier that the first one would start from.

    Raises:
        MlflowResnetError: for anything a user can cause.
    """
    with end_attached_run():
        check_options(options, 1)
        pick_device(options.device)
        training = prepare_training(options)
        name = f"learning rates of {options.architecture} on {name_data_set(options.train_dir)}"
        strategy = phases(training.recipe)[-1].strategy
        say(f"testing learning rates of the phase {strategy}")
        with enter_run(name, all_params(options, training), uuid.uuid4().hex) as run:
            log_beginning(options, training, make_recorder(run))
            mlflow.set_tag("mlflow_resnet.phase", strategy)
            points = []
            for point in tqdm(rate_points(training, options), total=options.steps, leave=False, disable=None):
                points.append(point)
                metrics = asdict(point)
                mlflow.log_metrics(metrics, step=metrics.pop("step"))
            suggestion = suggest_rates(points, options)
            tenth, steepest = suggestion.tenth_of_minimum, suggestion.steepest
            table = pd.DataFrame([asdict(point) for point in points])
            figure = learning_rate_figure(table, {"a tenth of the minimum": tenth, "steepest fall": steepest})
            mlflow.log_figure(figure, "learning_rate_test.png")
            mlflow.log_table(table, "learning_rate_test.json")
            mlflow.log_metrics({"suggested_learning_rate": tenth, "steepest_learning_rate": steepest})
    return LearningRateTest(run.info.run_id, strategy, points, suggestion)


def summarize_find_lr(result: LearningRateTest, options: FindLrOptions) -> str:
    suggestion, last = result.suggestion, result.points[-1]
    lines = [
        f"suggested learning rate {suggestion.tenth_of_minimum:.2g}, a tenth of that with the lowest loss",
        f"the loss falls fastest at {suggestion.steepest:.2g}",
        f"tested    {result.strategy}, {last.step} steps up to {last.learning_rate:.2g}",
        f"run       {result.run_id}, learning_rate_test.png",
    ]
    return in_lines(lines + ([f"note      {suggestion.note}"] if suggestion.note else []))
