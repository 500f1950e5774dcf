"""Attaching to a run or starting one, what it may record without contradiction, and how it ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_PROJECT_ENTRY_POINT
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from mlflow_resnet.errors import encodable, join_names
from mlflow_resnet.io.console import is_first, say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.parallel import within
from mlflow_resnet.io.text.characters import presentable
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.mlflow_seams import detach_active_run
from mlflow_resnet.tracking.server import keep_address_private

SIGNAL_ERRORS = (KeyboardInterrupt, SystemExit)  # Ctrl-C, and SIGTERM, which the command line turns into SystemExit
DEFAULT_EXPERIMENT, DEFAULT_EXPERIMENT_ID = "Default", "0"  # of every store of MLflow
MODEL_NAME = "model"  # of the model of a training
RECORD_TAG = "mlflow_resnet.record"  # of a run: which training, sweep or test of learning rates it holds
CONTINUED_IN = "mlflow_resnet.continued_in"
SEEDS_TAG = "mlflow_resnet.seeds"  # of a run whose child runs are trainings with other seeds: seed -> run id, in JSON
NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's answers to an id it does not have
TRUE = ("true", "t", "yes", "y", "on", "1")  # as the command line has them
FALSE = ("false", "f", "no", "n", "off", "0")
SECONDS_TO_HEAR = 8.0
RUN_ID_FILE = "MLFLOW_RESNET_RUN_ID_FILE"  # variable: where a worker process leaves the id of the run it began
T = TypeVar("T")


@contextlib.contextmanager
def enter_run(
    name: str, params: Mapping[str, Any], record_id: str = "", resumed_id: str | None = None
) -> Iterator[Run]:
    """The run to log to: the caller's active one, the one that `mlflow run` started, or a new one called `name`.

    If one that the caller gave holds another training, or other values of `params`, it gets a child run for this
    record. A run that this function started or attached to ends FINISHED, FAILED after an error, or KILLED after a
    signal.

    Args:
        record_id: of a training, sweep or test of learning rates: no two of these share a run.
        resumed_id: of an earlier run to go on with, if it still exists. A run that `mlflow run` started gets only a
            tag that names it.
    """
    client = MlflowClient()
    run: Run | None = mlflow.active_run()
    own = resumed_id if resumed_id and has_run(resumed_id) else None  # the run that this record began or begins
    with contextlib.ExitStack() as stack:
        if not run:
            keep_address_private()
            attached = MLFLOW_RUN_ID.get()
            if attached and own and attached != own and find_parent(own) != attached:
                client.set_tag(attached, CONTINUED_IN, own)
            run_name = None if attached or own else presentable(name)
            run = mlflow.start_run(own, run_name=run_name, log_system_metrics=True)
            stack.enter_context(end_after_block(run))
            own = own if attached else run.info.run_id
        given = run.info.run_id
        found = client.get_run(given) if given != own else None
        if found and (conflict := find_conflict(found, params, record_id)):
            earlier = own if own and find_parent(own) == given else None
            run = stack.enter_context(child_run(name, resumed_id=earlier))
            if SEEDS_TAG not in found.data.tags:
                say(f"run {given} {conflict}, so this is recorded in run {run.info.run_id}, a child of it")
        if record_id:
            client.set_tag(run.info.run_id, RECORD_TAG, record_id)
        if file := os.environ.get(RUN_ID_FILE):
            Path(file).write_text(run.info.run_id)
        yield run


def as_logged(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as a run gets them: text that every server takes, without credentials."""
    return {name: without_credentials(encodable(str(value))) for name, value in params.items()}


def find_conflict(run: Run, params: Mapping[str, Any], record_id: str = "") -> str:
    """Returns what in a run contradicts a record of these params, and of this id if it has one; or nothing."""
    held = run.data.tags.get(RECORD_TAG, record_id)
    if record_id and held != record_id:
        return "holds another training"
    if names := find_differing_params(run, as_logged(params)):
        return f"has other values of {join_names(names)}"
    return ""


def find_differing_params(run: Run, params: Mapping[str, str]) -> list[str]:
    """The names of the params that the run has with other values."""
    logged = run.data.params
    is_project = MLFLOW_PROJECT_ENTRY_POINT in run.data.tags
    return [name for name in params if name in logged and not is_same_value(logged[name], params[name], is_project)]


def is_same_value(logged: str, value: str, is_project: bool) -> bool:
    """Returns whether a logged param equals ours. `mlflow run` logs values as typed, and quoted for a shell.

    It also gives a path that was typed from another folder, or downloaded, so that ours alone is absolute.
    """
    if logged == value[:MAX_PARAM_VAL_LENGTH] or (is_project and os.path.isabs(value)):
        return True
    with contextlib.suppress(ValueError):  # a quote that does not end
        words = shlex.split(logged)
        logged = words[0] if len(words) == 1 else logged
    typed = without_credentials(logged)
    if value in ("True", "False"):
        return typed.casefold() in (TRUE if value == "True" else FALSE)
    try:
        return float(typed) == float(value)
    except ValueError:
        return typed == value


@contextlib.contextmanager
def child_run(
    name: str, killed_by: tuple[type[BaseException], ...] = (), resumed_id: str | None = None
) -> Iterator[Run]:
    """Yields a run below the active one; it ends as KILLED after errors `killed_by`.

    It is a new one called `name`, unless one is to go on.
    """
    parent = mlflow.active_run()
    experiment = parent.info.experiment_id if parent else None
    run_name = None if resumed_id else presentable(name)
    run = mlflow.start_run(
        resumed_id, run_name=run_name, experiment_id=experiment, nested=True, log_system_metrics=True
    )
    with end_after_block(run, killed_by):
        yield run


@contextlib.contextmanager
def end_after_block(run: Run, killed_by: tuple[type[BaseException], ...] = ()) -> Iterator[Run]:
    """Ends the active run after the block."""
    try:
        yield run
    except BaseException as error:
        if mlflow.active_run():
            try_briefly(detach_active_run(status_after(error, killed_by)))
        raise
    mlflow.end_run()


def try_briefly(tell: Callable[[], object]) -> None:
    """Calls a function that talks to the server for a few seconds at most, and ignores its errors."""
    with contextlib.suppress(Exception):
        within(SECONDS_TO_HEAR, tell)


def has_run(run_id: str) -> bool:
    """Whether the tracking server has the run, and not in its trash."""
    run = find_run(run_id)
    return run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE


def find_gone(ids: Notes) -> str:
    """Returns what the server no longer has of run and model; empty if it has both. A run in the trash is there."""
    client, where = MlflowClient(), f"is no longer on MLflow at {mlflow.get_tracking_uri()}"
    run_id, model_id = ids.get("run_id") or "", ids.get("model_id")
    run = find_run(run_id)
    if run is None or client.get_experiment(run.info.experiment_id).lifecycle_stage != LifecycleStage.ACTIVE:
        return f"its run {run_id} {where}"
    if model_id:
        return "" if find_known(lambda: client.get_logged_model(model_id)) else f"its model {model_id} {where}"
    return "" if open_artifacts(run).list_artifacts(MODEL_NAME) else f"its model {locate_model(ids)} {where}"


def open_artifacts(run: Run) -> ArtifactRepository:
    """Returns the artifacts of a run; MLflow's client would look for those of its logged models too."""
    return get_artifact_repository(run.info.artifact_uri)


def locate_model(ids: Notes) -> str:
    """Returns the URI of the model of a training; empty if there is none yet.

    On a server without logged models, for which the notes have an empty id, it is among the artifacts of the run.
    """
    model_id = ids.get("model_id")
    if model_id is None:
        return ""
    return f"models:/{model_id}" if model_id else f"runs:/{ids['run_id']}/{MODEL_NAME}"


def restore_run(run_id: str) -> None:
    """Takes the run out of the trash, if it is there."""
    if MlflowClient().get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
        MlflowClient().restore_run(run_id)
        say(f"run {run_id} was in the trash of MLflow, and is restored")


def find_run(run_id: str) -> Run | None:
    """The run, which may be in the trash; None if the tracking server has none of this id."""
    return find_known(lambda: MlflowClient().get_run(run_id))


def find_known(ask: Callable[[], T]) -> T | None:
    """Returns the server's answer; None if it does not know the subject."""
    try:
        return ask()
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


def choose_experiment(offline: bool) -> str:
    """The experiment that a run would be in which is begun now: its name, empty for MLflow's default one.

    Args:
        offline: then an id, which only a server can name, stays an id.
    """
    active, given = mlflow.active_run(), os.environ.get(MLFLOW_RUN_ID.name)
    run = active or (find_run(given) if given and not offline else None)
    experiment_id = run.info.experiment_id if run else MLFLOW_EXPERIMENT_ID.get()
    if not experiment_id:
        name = MLFLOW_EXPERIMENT_NAME.get() or DEFAULT_EXPERIMENT
    elif offline:
        name = DEFAULT_EXPERIMENT if experiment_id == DEFAULT_EXPERIMENT_ID else experiment_id
    else:
        name = MlflowClient().get_experiment(experiment_id).name
    return "" if name == DEFAULT_EXPERIMENT else str(name)


def find_parent(run_id: str) -> str:
    """The id of the run that this one is a child of; empty if it is none."""
    return str(MlflowClient().get_run(run_id).data.tags.get(MLFLOW_PARENT_RUN_ID, ""))


@contextlib.contextmanager
def end_attached_run() -> Iterator[None]:
    """Ends the run that `mlflow run` started if an error comes before the run is attached to."""
    run_id = os.environ.get(MLFLOW_RUN_ID.name) if is_first() else None
    try:
        yield
    except BaseException as error:
        if run_id and os.environ.get(MLFLOW_RUN_ID.name):
            status = status_after(error)
            try_briefly(lambda: MlflowClient().set_terminated(run_id, status))
        raise


@contextlib.contextmanager
def enter_worker_run() -> Iterator[dict[str, str]]:
    """Around processes of which the first has an `enter_run`; yields environment variables for them.

    They log to the caller's active run, which stays active. A run that they began ends also if they were killed.
    """
    active = mlflow.active_run()
    with tempfile.TemporaryDirectory(prefix="mlflow_resnet-") as folder:
        file = Path(folder) / "run_id"
        try:
            yield {RUN_ID_FILE: str(file)} | ({MLFLOW_RUN_ID.name: active.info.run_id} if active else {})
        except BaseException as error:
            if file.exists():
                begun, status = file.read_text(), status_after(error)
                try_briefly(lambda: end_if_running(begun, status))
            raise
        finally:
            if active:
                MlflowClient().update_run(active.info.run_id, "RUNNING")


def end_if_running(run_id: str, status: str) -> None:
    if MlflowClient().get_run(run_id).info.status == "RUNNING":
        MlflowClient().set_terminated(run_id, status)


def status_after(error: BaseException, killed_by: tuple[type[BaseException], ...] = ()) -> str:
    """KILLED after a signal or an error `killed_by`, else FAILED."""
    return "KILLED" if isinstance(error, SIGNAL_ERRORS + killed_by) else "FAILED"
