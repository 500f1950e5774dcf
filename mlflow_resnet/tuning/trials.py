"""The trials of a sweep: trainings without a model, each in a child run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Any, NoReturn

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import InvalidOptionsError, OutOfMemoryError, TrainingDivergedError
from mlflow_resnet.io.console import say
from mlflow_resnet.io.text.credentials import all_without_credentials, without_credentials
from mlflow_resnet.io.text.spreadsheets import write_csv
from mlflow_resnet.model.hardware import is_out_of_memory
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options.sweep import SweepOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.preparation import build_training
from mlflow_resnet.runs.training import log_beginning
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.recorder import make_recorder
from mlflow_resnet.tracking.run import child_run, has_run
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.tuning.search_space import Space
from mlflow_resnet.tuning.study import list_ended, list_interrupted

ENDED_TAG = "mlflow_resnet.ended"


class TrialFailed(Exception):
    """A trial came to nothing because of its values, so the others go on."""


class TimeIsOver(Exception):
    """The time of the sweep ended within a trial."""


@dataclass(frozen=True)
class Sweep:
    """State that all trials share; `deadline` as `perf_counter` counts. The parent run must be the active one."""

    options: SweepOptions
    space: Space
    study: Study
    train_set: ImageDirectoryDataset
    val_set: ImageDirectoryDataset
    test_set: ImageDirectoryDataset | None
    deadline: float

    def begin(self, run: Run, first: dict[str, Any]) -> None:
        """Logs to the parent run what is known before the trials. A new study begins with the values `first`."""
        recorder = make_recorder(run)
        record.log_params(recorder, asdict(self.options))
        record.log_data(recorder, self.train_set, "training")
        record.log_data(recorder, self.val_set, "validation")
        space = {name: asdict(values) for name, values in self.space.items()}
        mlflow.log_dict(all_without_credentials(space), "search_space.json")
        mlflow.set_tags({"mlflow_resnet.version": __version__, "mlflow_resnet.study": self.study.study_name})
        self.study.set_user_attr("run_id", run.info.run_id)
        end_interrupted_runs(self.study)
        if first and not self.study.trials:
            self.study.enqueue_trial(first)

    def run_trials(self) -> None:
        """Runs trials until there are enough or the time is over."""
        if done := len(list_ended(self.study)):
            say(f"going on after {done} of {self.options.trials} trials")
        if done < self.options.trials:
            self.study.optimize(self.run_trial, catch=(TrialFailed, TimeIsOver), callbacks=[self.after_trial])

    def run_trial(self, trial: Trial) -> float:
        """One trial in a child run. It ends KILLED if it was pruned, as MLflow's own storage for Optuna has it."""
        values = {name: values.suggest(trial, name) for name, values in self.space.items()}
        say(f"trial {trial.number}: {format_values(values)}")
        with child_run(f"trial {trial.number}", killed_by=(TrialPruned, TimeIsOver)) as run:
            trial.set_user_attr("run_id", run.info.run_id)
            try:
                best = self.train(trial, build_trial_options(self.options, values), run)
            except (TrainingDivergedError, OutOfMemoryError, InvalidOptionsError) as error:
                fail_trial(trial, error.message)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                fail_trial(trial, "out of memory")
            except (TrialPruned, TimeIsOver) as error:
                mlflow.set_tag(ENDED_TAG, str(error))
                raise
        trial.set_user_attr("metrics", best.metrics)
        return best.metrics[self.options.best_metric]

    def train(self, trial: Trial, options: TrainOptions, run: Run) -> EpochResult:
        """Trains as `train` does, but keeps no model. Returns the best epoch."""
        training = build_training(self.train_set, self.val_set, None, options)
        recorder = make_recorder(run)
        log_beginning(options, training, recorder)
        metric = options.best_metric
        for result in training.epochs(options):
            record.log_epoch(recorder, result, self.train_set, self.val_set, has_model=False)
            if result.is_best:
                best = result
                mlflow.log_metric(f"best_{metric}", result.metrics[metric], step=result.epoch)
            trial.report(result.metrics[metric], result.epoch)
            if result.epoch < training.recipe.epochs:
                self.check(trial, f"after epoch {result.epoch}")
        record.log_report(recorder, best.evaluation, self.val_set, Predictor(training.classifier), "validation")
        return best

    def check(self, trial: Trial, when: str) -> None:
        """Raises TrialPruned or TimeIsOver if it is not worth while, or there is no time, to go on."""
        if self.options.pruning and trial.should_prune():
            raise TrialPruned(f"pruned {when}")
        if perf_counter() >= self.deadline:
            raise TimeIsOver(f"out of time {when}")

    def after_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Reports a trial, logs it in the parent run, and stops the study after the last."""
        metric = self.options.best_metric
        if trial.state == TrialState.COMPLETE:
            value, best = trial.values[0], study.best_value
            say(f"trial {trial.number}: {metric} {value:.4f}; best {best:.4f} in trial {study.best_trial.number}")
            mlflow.log_metrics({f"trial_{metric}": value, f"best_{metric}": best}, step=trial.number)
        else:
            say(f"trial {trial.number}: {trial.user_attrs.get('error', 'ended early')}")
        write_csv(study.trials_dataframe(), table := io.StringIO())
        mlflow.log_text(without_credentials(table.getvalue()), "trials.csv")
        if len(list_ended(study)) >= self.options.trials or perf_counter() >= self.deadline:
            study.stop()


def build_trial_options(options: SweepOptions, values: Mapping[str, Any], **registration: str) -> TrainOptions:
    """The options of one training with `values`, which registers nothing unless that is given too.

    Raises:
        InvalidOptionsError: if they do not go together.
    """
    fixed = {field.name: getattr(options, field.name) for field in fields(TrainOptions)}
    return TrainOptions(**fixed | {"registered_model_name": "", "alias": ""} | registration | dict(values))


def fail_trial(trial: Trial, reason: str) -> NoReturn:
    """Ends a trial that counts, although it has no result."""
    trial.set_user_attr("error", reason)
    mlflow.set_tag(ENDED_TAG, reason)
    raise TrialFailed(reason)


def end_interrupted_runs(study: Study) -> None:
    """Ends the child runs that a killed process left RUNNING."""
    client = MlflowClient()
    run_ids = {trial.user_attrs.get("run_id", "") for trial in list_interrupted(study)}
    for run_id in filter(has_run, run_ids):
        if client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
            client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def format_values(values: Mapping[str, Any]) -> str:
    """Values as a person would write them: `learning_rate 0.0123, optimizer sgd`."""
    return ", ".join(
        f"{name} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in values.items()
    )
