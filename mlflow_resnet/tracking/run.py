"""Attaching to a run or starting one, and how it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.environment_variables import MLFLOW_RUN_ID


@contextlib.contextmanager
def recorded_run(name: str) -> Iterator[Run]:
    """The run to log to: the caller's active one, the one that `mlflow run` started, or a new one called `name`.

    A run that this function started or attached to ends FINISHED, FAILED after an error, or KILLED after a signal.
    """
    if active := mlflow.active_run():
        yield active
        return
    run_name = None if MLFLOW_RUN_ID.get() else name
    run = mlflow.start_run(run_name=run_name, log_system_metrics=True)
    try:
        yield run
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error is the one to report
            mlflow.end_run(status_after(error))
        raise
    mlflow.end_run()


@contextlib.contextmanager
def attached_run_ends_with() -> Iterator[None]:
    """Ends the run that `mlflow run` started also if an error comes before the run is attached to."""
    run_id = os.environ.get(MLFLOW_RUN_ID.name)
    try:
        yield
    except BaseException as error:
        if run_id and os.environ.get(MLFLOW_RUN_ID.name):
            with contextlib.suppress(Exception):  # the first error is the one to report
                MlflowClient().set_terminated(run_id, status_after(error))
        raise


def status_after(error: BaseException) -> str:
    """KILLED after a signal (Ctrl-C, or SIGTERM, which the command line turns into SystemExit), else FAILED."""
    return "KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED"


def log_missing_params(run: Run, params: dict[str, Any]) -> None:
    """Logs the params that the run lacks. `mlflow run` logged its own, as typed, and MLflow lets none be changed."""
    present = MlflowClient().get_run(run.info.run_id).data.params
    mlflow.log_params({name: value for name, value in params.items() if name not in present})
