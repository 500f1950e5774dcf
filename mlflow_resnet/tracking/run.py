"""Attaching to a run or starting one, and how it ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException

from mlflow_resnet.console import is_first
from mlflow_resnet.text.characters import presentable
from mlflow_resnet.tracking.server import keep_address_private, patience

SIGNALS = (KeyboardInterrupt, SystemExit)  # Ctrl-C, and SIGTERM, which the command line turns into SystemExit
CONTINUED_IN = "mlflow_resnet.continued_in"
RUN_ID_FILE = "MLFLOW_RESNET_RUN_ID_FILE"  # variable: where a worker process leaves the id of the run it began


@contextlib.contextmanager
def recorded_run(name: str, resumed_id: str | None = None) -> Iterator[Run]:
    """The run to log to: the caller's active one, the one that `mlflow run` started, or a new one called `name`.

    A run that this function started or attached to ends FINISHED, FAILED after an error, or KILLED after a signal.

    Args:
        resumed_id: of an earlier run to go on with, if it still exists. A run that `mlflow run` started gets only a
            tag that names it.
    """
    if active := mlflow.active_run():
        yield active
        return
    keep_address_private()
    attached = MLFLOW_RUN_ID.get()
    resumed = resumed_id if resumed_id and exists(resumed_id) else None
    run_name = None if attached or resumed else presentable(name)
    if attached and resumed and attached != resumed:
        MlflowClient().set_tag(attached, CONTINUED_IN, resumed)
    run = mlflow.start_run(resumed, run_name=run_name, log_system_metrics=True)
    if file := os.environ.get(RUN_ID_FILE):
        Path(file).write_text(run.info.run_id)
    with ending(run):
        yield run


@contextlib.contextmanager
def child_run(name: str, killed_by: tuple[type[BaseException], ...] = ()) -> Iterator[Run]:
    """A new run below the active one, which ends like those of `recorded_run`, and KILLED after errors `killed_by`."""
    parent = mlflow.active_run()
    experiment = parent.info.experiment_id if parent else None
    run = mlflow.start_run(run_name=name, experiment_id=experiment, nested=True, log_system_metrics=True)
    with ending(run, killed_by):
        yield run


@contextlib.contextmanager
def ending(run: Run, killed_by: tuple[type[BaseException], ...] = ()) -> Iterator[Run]:
    """Ends the active run after the block."""
    try:
        yield run
    except BaseException as error:
        with trying():
            mlflow.end_run(status_after(error, killed_by))
        raise
    mlflow.end_run()


@contextlib.contextmanager
def trying() -> Iterator[None]:
    """Gives a server one chance of a few seconds to hear of an end; another error may be the one to report."""
    with patience(retries=0, seconds=5), contextlib.suppress(Exception):
        yield


def exists(run_id: str) -> bool:
    """Whether the tracking server has the run, and not in its trash."""
    try:
        return MlflowClient().get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE
    except MlflowException:
        return False


@contextlib.contextmanager
def attached_run_ends_with() -> Iterator[None]:
    """Ends the run that `mlflow run` started also if an error comes before the run is attached to."""
    run_id = os.environ.get(MLFLOW_RUN_ID.name) if is_first() else None
    try:
        yield
    except BaseException as error:
        if run_id and os.environ.get(MLFLOW_RUN_ID.name):
            with trying():
                MlflowClient().set_terminated(run_id, status_after(error))
        raise


@contextlib.contextmanager
def run_of_workers() -> Iterator[dict[str, str]]:
    """Around processes of which the first has a `recorded_run`; yields environment variables for them.

    They log to the caller's active run, which stays active. A run that they began ends also if they were killed.
    """
    active = mlflow.active_run()
    with tempfile.TemporaryDirectory(prefix="mlflow_resnet-") as folder:
        file = Path(folder) / "run_id"
        try:
            yield {RUN_ID_FILE: str(file)} | ({MLFLOW_RUN_ID.name: active.info.run_id} if active else {})
        except BaseException as error:
            if file.exists():
                with trying():
                    end_if_running(file.read_text(), status_after(error))
            raise
        finally:
            if active:
                MlflowClient().update_run(active.info.run_id, "RUNNING")


def end_if_running(run_id: str, status: str) -> None:
    if MlflowClient().get_run(run_id).info.status == "RUNNING":
        MlflowClient().set_terminated(run_id, status)


def status_after(error: BaseException, killed_by: tuple[type[BaseException], ...] = ()) -> str:
    """KILLED after a signal or an error `killed_by`, else FAILED."""
    return "KILLED" if isinstance(error, SIGNALS + killed_by) else "FAILED"
