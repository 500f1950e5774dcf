"""The trials of a sweep: trainings without a model, each in a child run, and the study that remembers them.

The study is in Optuna's database, which several processes may use at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Any

import mlflow
import optuna
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import InvalidOptionsError, OutOfMemoryError, SweepError, TrainingDivergedError, join_names
from mlflow_resnet.io.console import say
from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.credentials import all_without_credentials, without_credentials
from mlflow_resnet.io.text.spreadsheets import write_csv
from mlflow_resnet.model.hardware import is_out_of_memory
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options.base import Affects, names_affecting
from mlflow_resnet.options.metric_names import LOWER_IS_BETTER
from mlflow_resnet.options.sweep import SweepOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.preparation import build_training
from mlflow_resnet.runs.training import log_beginning
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import child_run, has_run
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.tuning.search_space import Space

ENDED_TAG = "mlflow_resnet.ended"
HEARTBEAT_SECONDS = 10
TRIAL_GRACE_SECONDS = 30  # without a heartbeat, after which a trial counts as abandoned, as after kill -9
KNOWN_BY = names_affecting(TrainOptions, Affects.CONDITIONS, Affects.WEIGHTS)  # images are known by their digest


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
        end_interrupted_runs(self.study)

    def run_trial(self, trial: Trial) -> float:
        """One trial in a child run. It ends KILLED if it was pruned, as MLflow's own storage for Optuna has it."""
        values = {name: values.suggest(trial, name) for name, values in self.space.items()}
        shown = [f"{name} {f'{v:.3g}' if isinstance(v, float) else v}" for name, v in values.items()]
        say(f"trial {trial.number}: {', '.join(shown)}")
        with child_run(f"trial {trial.number}", killed_by=(TrialPruned, TimeIsOver)) as run:
            trial.set_user_attr("run_id", run.info.run_id)
            try:
                best = self.train(trial, build_trial_options(self.options, values), run)
            except (TrainingDivergedError, OutOfMemoryError, InvalidOptionsError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                    raise
                reason = "out of memory" if isinstance(error, RuntimeError) else error.message
                trial.set_user_attr("error", reason)  # so it counts, although it has no result
                mlflow.set_tag(ENDED_TAG, reason)
                raise TrialFailed(reason) from error
            except (TrialPruned, TimeIsOver) as error:
                mlflow.set_tag(ENDED_TAG, str(error))
                raise
        trial.set_user_attr("metrics", best.metrics)
        return best.metrics[self.options.best_metric]

    def train(self, trial: Trial, options: TrainOptions, run: Run) -> EpochResult:
        """Trains as `train` does, but keeps no model. Returns the best epoch.

        Raises:
            TrialPruned, TimeIsOver: if it is not worth while, or there is no time, to go on.
        """
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
            has_more = result.epoch < training.recipe.epochs
            if has_more and self.options.pruning and trial.should_prune():
                raise TrialPruned(f"pruned after epoch {result.epoch}")
            if has_more and perf_counter() >= self.deadline:
                raise TimeIsOver(f"out of time after epoch {result.epoch}")
        record.log_report(recorder, best.evaluation, self.val_set, Predictor(training.classifier), "validation")
        return best

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


def end_interrupted_runs(study: Study) -> None:
    """Ends the child runs that a killed process left RUNNING."""
    client = MlflowClient()
    optuna.storages.fail_stale_trials(study)
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    run_ids = {trial.user_attrs.get("run_id", "") for trial in failed if "error" not in trial.user_attrs}
    for run_id in filter(has_run, run_ids):
        if client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
            client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def open_study(options: SweepOptions, space: Space, digests: dict[str, str], probe_epochs: int) -> Study:
    """The study with these options, images and search space, from the database or new in it.

    Pruning: the median rule judges a trial by the others' values at the same epoch after five trials. Hyperband would
    need about ten for each of its brackets before its sampler learns anything, more than most sweeps have in all.

    Args:
        probe_epochs: in which nothing is pruned, because only the head is trained.

    Raises:
        SweepError: if the database cannot be opened, or holds another study of that name.
    """
    if is_own_process():
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the terminal and the runs tell of the trials
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of the heartbeat
    swept = {name: asdict(values) for name, values in space.items()}
    known_by = {name: getattr(options, name) for name in KNOWN_BY} | digests | {"search_space": swept}
    known_by = json.loads(json.dumps(all_without_credentials(known_by)))
    digest = hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:8]
    median = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=probe_epochs + 1)
    try:
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(
                options.storage, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=TRIAL_GRACE_SECONDS
            ),
            study_name=options.study_name or f"{options.architecture}-{digest}",
            direction="minimize" if options.best_metric in LOWER_IS_BETTER else "maximize",
            pruner=median if options.pruning else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy's, its drivers' and Optuna's have no common base class
        raise SweepError(
            f"storage {options.storage} cannot be opened ({one_line(error)}); give a database, "
            "such as sqlite:///sweep.db"
        ) from None
    # A sampler that began with the same seed each time would draw the first trials again.
    seed = (options.random_seed + len(study.trials)) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    claim_study(study, known_by)
    return study


def claim_study(study: Study, known_by: dict[str, Any]) -> None:
    """Stores the identity of a new study, or refuses one that differs from the stored identity."""
    before = all_without_credentials(study.user_attrs.get("options"))
    if before is not None and not isinstance(before, dict):
        raise SweepError(f"study {study.study_name} holds {before!r:.40} as its options; give another study_name")
    if before is None:
        study.set_user_attr("options", known_by)
    elif changed := [name for name in known_by.keys() | before.keys() if known_by.get(name) != before.get(name)]:
        raise SweepError(
            f"study {study.study_name} was begun with other values of {join_names(sorted(changed))}, so its trials "
            "cannot be compared with new ones; give the same values or another study_name"
        )


def list_ended(study: Study) -> list[FrozenTrial]:
    """Trials that came to an end: completed, pruned, or failed with an error. Interrupted ones are tried again."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in trials if trial.state != TrialState.FAIL or "error" in trial.user_attrs]


def others_running(study: Study) -> list[int]:
    """Numbers of the trials that other processes are at."""
    optuna.storages.fail_stale_trials(study)
    return [trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
