"""Attaching to a run or starting one, and how it ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_resnet.io.console import is_first, say
from mlflow_resnet.io.parallel import within
from mlflow_resnet.io.text.characters import presentable
from mlflow_resnet.mlflow_seams import detach_active_run
from mlflow_resnet.tracking.conflicts import RECORD_TAG, find_conflict
from mlflow_resnet.tracking.server import keep_address_private

SIGNAL_ERRORS = (KeyboardInterrupt, SystemExit)  # Ctrl-C, and SIGTERM, which the command line turns into SystemExit
DEFAULT_EXPERIMENT, DEFAULT_EXPERIMENT_ID = "Default", "0"  # of every store of MLflow
CONTINUED_IN = "mlflow_resnet.continued_in"
NOT_FOUND_CODES = (
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
)  # what MLflow answers to an id that it does not have
T = TypeVar("T")
SECONDS_TO_HEAR = 8.0
RUN_ID_FILE = "MLFLOW_RESNET_RUN_ID_FILE"  # variable: where a worker process leaves the id of the run it began


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
    resumed = resumed_id if resumed_id and has_run(resumed_id) else None
    if active := mlflow.active_run():
        with itself_or_child(active, name, params, record_id, resumed) as run:
            yield run
        return
    keep_address_private()
    attached = MLFLOW_RUN_ID.get()
    run_name = None if attached or resumed else presentable(name)
    if attached and resumed and attached != resumed and find_parent(resumed) != attached:
        MlflowClient().set_tag(attached, CONTINUED_IN, resumed)
    run = mlflow.start_run(resumed, run_name=run_name, log_system_metrics=True)
    own = resumed if attached else run.info.run_id
    with end_after_block(run), itself_or_child(run, name, params, record_id, own) as run:
        yield run


@contextlib.contextmanager
def itself_or_child(given: Run, name: str, params: Mapping[str, Any], record_id: str, own: str | None) -> Iterator[Run]:
    """Yields the active run `given`, or a child of it if the record would contradict it.

    Args:
        own: the run that this record began or begins, if any.
    """
    client, run_id = MlflowClient(), given.info.run_id
    conflict = "" if run_id == own else find_conflict(client.get_run(run_id), params, record_id)
    if conflict:
        earlier = own if own and find_parent(own) == run_id else None
        with child_run(name, resumed_id=earlier) as run:
            say(f"run {run_id} {conflict}, so this is recorded in run {run.info.run_id}, a child of it")
            begin_record(run, record_id)
            yield run
    else:
        begin_record(given, record_id)
        yield given


def begin_record(run: Run, record_id: str) -> None:
    """Notes in the run the record that it holds, and for the parent process that it is used."""
    if record_id:
        MlflowClient().set_tag(run.info.run_id, RECORD_TAG, record_id)
    if file := os.environ.get(RUN_ID_FILE):
        Path(file).write_text(run.info.run_id)


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
    """Limits requests in the block to one attempt of a few seconds, and ignores their errors."""
    with contextlib.suppress(Exception):
        within(SECONDS_TO_HEAR, tell)


def has_run(run_id: str) -> bool:
    """Whether the tracking server has the run, and not in its trash."""
    run = find_run(run_id)
    return run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE


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
    """Around processes of which the first has a `enter_run`; yields environment variables for them.

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
