"""A sweep: many trainings, each a child run of one run, and the best of them done once more, with a model."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_resnet.errors import MissingPackageError, SweepError, join_names
from mlflow_resnet.images.layout import name_data_set
from mlflow_resnet.io.console import say
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.io.text.credentials import all_without_credentials
from mlflow_resnet.mlflow_seams import NOTE_TAG
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.options.sweep import SweepOptions
from mlflow_resnet.registry.versions import parse_model_id
from mlflow_resnet.runs.preparation import build_training, check_batch_size, check_options, scan_test_data
from mlflow_resnet.runs.training import train_in_run
from mlflow_resnet.tracking.card import sweep_card
from mlflow_resnet.tracking.data import scan_training_data
from mlflow_resnet.tracking.pieces import add_output
from mlflow_resnet.tracking.run import child_run, end_attached_run, enter_run
from mlflow_resnet.tracking.training_record import TrainResult
from mlflow_resnet.training.recipe import Recipe, decide_recipe
from mlflow_resnet.tuning.search_space import Space, check_corners, default_space, own_values, read_space
from mlflow_resnet.verbs.frame import describe_training

try:
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError:
    raise MissingPackageError("sweep", "optuna>=4") from None

from mlflow_resnet.tuning.trials import Sweep, build_trial_options, list_ended, open_study, others_running


@dataclass(frozen=True)
class SweepResult:
    """Result of `sweep`. `trained` is the best trial's training, done again; None if that was not wanted, was done by
    an earlier call, or is left to another process."""

    run_id: str  # of the parent run
    study_name: str
    trials: int  # that came to an end, those of earlier calls included
    best_trial: int
    best_value: float
    best_values: dict[str, Any]  # option -> value in the best trial
    trained: TrainResult | None


def sweep(options: SweepOptions) -> SweepResult:
    """Trains with values of the search space until there are enough trials or the time is over; then the best again.

    Every trial is a run below one parent run. The parent has the best trial's metrics, its values as tags
    `best.<option>`, and the model. The same call goes on where an earlier one stopped.

    Raises:
        MlflowResnetError: for anything a user can cause. A trial that diverges or runs out of memory is only a trial.
    """
    with end_attached_run():
        check_options(options, 1)
        pick_device(options.device)
        given: Space = {}
        if options.search_space:
            given = read_space(options.search_space, options)
            check_corners(given, lambda values: build_trial_options(options, values))
        deadline = perf_counter() + (options.sweep_minutes * 60 or math.inf)
        train_set, val_set = scan_training_data(options)
        test_set = scan_test_data(options, train_set)
        classes, images = train_set.directory.class_names, len(train_set.directory)

        def decide(values: Mapping[str, Any]) -> Recipe:
            return decide_recipe(build_trial_options(options, values), classes, images)

        recipe = decide({})
        space = given or default_space(recipe, options, images)
        check_corners(space, lambda values: check_batch_size(decide(values), images))
        digests = {"training images": train_set.digest, "validation images": val_set.digest}
        study = open_study(options, space, digests, recipe.probe_epochs)
        name = f"sweep of {options.architecture} on {name_data_set(options.train_dir)}"
        resumed_id = study.user_attrs.get("run_id")
        with enter_run(name, asdict(options), uuid.uuid4().hex, resumed_id) as run:
            all_trials = Sweep(options, space, study, train_set, val_set, test_set, deadline)
            all_trials.begin(run, own_values(space, recipe, options))
            try:
                all_trials.run_trials()
            except (KeyboardInterrupt, SystemExit):
                say("the same command goes on from here")
                raise
            return finish_sweep(all_trials, run)


def finish_sweep(all_trials: Sweep, run: Run) -> SweepResult:
    """Trains with the best values again and records them in the parent run.

    Raises:
        SweepError: if no trial was completed.
    """
    options, study = all_trials.options, all_trials.study
    ended = list_ended(study)
    if not any(trial.state == TrialState.COMPLETE for trial in ended):
        errors = [trial.user_attrs["error"] for trial in ended if "error" in trial.user_attrs]
        reason = f"the last error: {errors[-1]}" if errors else "give more sweep_minutes or fewer epochs"
        raise SweepError(f"none of the {len(ended)} trials has a result; {reason}")
    best = study.best_trial
    trained = retrain_best(all_trials, best) if options.retrain_best else None
    if trained and (model_id := parse_model_id(trained.model_uri)):
        add_output(MlflowClient(), run.info.run_id, model_id, trained.best_epoch)
    mlflow.log_metrics(trained.metrics if trained else best.user_attrs["metrics"])
    mlflow.set_tags(all_without_credentials({f"best.{name}": value for name, value in best.params.items()}))
    count = len(list_ended(study))
    mlflow.set_tag(NOTE_TAG, sweep_card(options, study.study_name, count, best.number, study.best_value, best.params))
    return SweepResult(run.info.run_id, study.study_name, count, best.number, study.best_value, best.params, trained)


def retrain_best(all_trials: Sweep, best: FrozenTrial) -> TrainResult | None:
    """Trains with the best trial's values again, in a child run, with model and registration.

    Of several processes on one study the last one does it, and a later call does it only if something changed.
    """
    options, study = all_trials.options, all_trials.study
    registration = {"registered_model_name": options.registered_model_name, "alias": options.alias}
    if busy := others_running(study):
        say(
            f"other processes are at trial {join_names(busy)}; the last of them trains with the best values again, "
            "or, if they were killed, this command does, repeated in a minute"
        )
        return None
    if study.user_attrs.get("retrained") == registration | {"trial": best.number}:
        say("the best trial was trained again by an earlier call")
        return None
    say(f"training again with the values of trial {best.number}")
    best_options = build_trial_options(options, best.params, **registration)
    with child_run("best") as run:
        training = build_training(all_trials.train_set, all_trials.val_set, all_trials.test_set, best_options)
        result = train_in_run(best_options, training, run).complete(training.classifier)
    study.set_user_attr("retrained", registration | {"trial": best.number})
    return result


def summarize_sweep(result: SweepResult, options: SweepOptions) -> str:
    lines = [f"best {options.best_metric} {result.best_value:.4f} in trial {result.best_trial} of {result.trials}"]
    lines += [f"  --{name.replace('_', '-')} {value}" for name, value in result.best_values.items()]
    lines.append(f"sweep     {result.run_id}, study {result.study_name}")
    if result.trained:
        return f"{in_lines(lines)}\n{describe_training(result.trained, options.registered_model_name)}"
    return in_lines(lines)
