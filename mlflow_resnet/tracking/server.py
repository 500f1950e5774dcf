"""Checks before any work whether the tracking server and the registry answer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import RequestException

from mlflow_resnet.errors import ServerRefusesError, ServerUnreachableError
from mlflow_resnet.io.parallel import within
from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.credentials import without_credentials

CHECK_SECONDS = 25.0
HEALTH_SECONDS = 5
MAX_MESSAGE = 1500  # characters; a server that is not MLflow may answer with a whole page
SQLITE = "sqlite:///"


def check_servers(registry: bool) -> None:
    """Asks the tracking server, and the registry if it will be needed, for anything at all.

    Raises:
        ServerUnreachableError: if one of them does not answer within 25 seconds.
        ServerRefusesError: if its answer is an error.
    """
    keep_address_private()
    ask_server(mlflow.get_tracking_uri(), lambda: MlflowClient().search_experiments(max_results=1))
    if registry:
        ask_server(mlflow.get_registry_uri(), lambda: MlflowClient().search_registered_models(max_results=1))


def keep_address_private() -> None:
    """Has MLflow not print the address of each run that ends, if it has a password in it and this process is ours."""
    uri = mlflow.get_tracking_uri()
    if is_own_process() and without_credentials(uri) != uri:
        os.environ[MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.name] = "true"


def ask_server(uri: str, question: Callable[[], object]) -> None:
    """Asks, and turns a timeout or any error into one line."""
    try:
        if uri.startswith(SQLITE):
            path = unquote(uri.removeprefix(SQLITE).partition("?")[0])
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA schema_version")  # of what is no database, MLflow would ask it for minutes
            question()  # a new database takes as long as it takes: its tables are being made
        else:
            require_answer(uri)
            within(CHECK_SECONDS, question)
    except MlflowException as error:
        is_temporary = error.error_code == "TEMPORARILY_UNAVAILABLE"
        if is_temporary or isinstance(error.__cause__ or error.__context__, RequestException):  # no MLflow was reached
            raise ServerUnreachableError(uri, one_line(error)) from None
        answer = one_line(error, MAX_MESSAGE).removeprefix(f"{error.error_code}: ")  # whole: its remedies come last
        raise ServerRefusesError(uri, answer) from None
    except UnicodeEncodeError:
        raise ServerUnreachableError(uri, "its path is not UTF-8") from None
    except Exception as error:  # connections, DNS, TLS, databases: no common base class
        raise ServerUnreachableError(uri, one_line(error)) from None


def require_answer(uri: str) -> None:
    """Raises MlflowException if an HTTP server says nothing twice, for 5 seconds each, or only that it cannot answer.

    MLflow itself, with its 7 retries of 120 seconds with back-off, would keep a user waiting. Other stores than HTTP
    servers are not asked.
    """
    if urlsplit(uri).scheme in ("http", "https"):
        http_request(get_default_host_creds(uri), "/health", "GET", max_retries=1, timeout=HEALTH_SECONDS)
