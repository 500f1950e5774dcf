"""The memory of a sweep: a study in Optuna's database, which several processes may use at once."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mlflow_resnet.errors import SweepError, join_names
from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.credentials import all_without_credentials
from mlflow_resnet.options.base import Affects, names_affecting
from mlflow_resnet.options.metric_names import LOWER_IS_BETTER
from mlflow_resnet.options.sweep import SweepOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tuning.search_space import Space

HEARTBEAT_SECONDS = 10
TRIAL_GRACE_SECONDS = 30  # without a heartbeat, after which a trial counts as abandoned, as after kill -9
KNOWN_BY = names_affecting(TrainOptions, Affects.CONDITIONS, Affects.WEIGHTS)  # images are known by their digest


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
