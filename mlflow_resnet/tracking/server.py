"""Whether the tracking server and the registry answer, found out before any work is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import mlflow
from mlflow import MlflowClient

from mlflow_resnet.errors import ServerUnreachableError

# MLflow's defaults (7 retries of 120 seconds, with back-off) would keep a user waiting for many minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def check_servers(registry: bool) -> None:
    """Asks the tracking server, and the registry if it will be needed, for anything at all. At most 30 seconds.

    Raises:
        ServerUnreachableError: if one of them does not answer.
    """
    client = MlflowClient()
    with little_patience():
        ask(mlflow.get_tracking_uri(), lambda: client.search_experiments(max_results=1))
        if registry:
            ask(mlflow.get_registry_uri(), lambda: client.search_registered_models(max_results=1))


def ask(uri: str, question: Callable[[], object]) -> None:
    try:
        question()
    except Exception as error:  # connections, DNS, TLS, databases: no common base class
        reason = str(error).strip().splitlines()[0][:200]
        raise ServerUnreachableError(uri, reason) from None


@contextlib.contextmanager
def little_patience() -> Iterator[None]:
    """MLflow reads these variables at each request."""
    before = {name: os.environ.get(name) for name in PATIENCE}
    os.environ.update(PATIENCE)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
