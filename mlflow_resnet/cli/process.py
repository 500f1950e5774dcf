"""What the command line sets for its whole process and for those that it starts. No library call does."""

from __future__ import annotations

import os

from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

RETRIES, REQUEST_SECONDS = 2, 60  # an artifact store may take so long to keep a large file


def bound_requests() -> None:
    """Has MLflow give up on a server in minutes, unless the user has set how long: its defaults are 7 and 120."""
    os.environ.setdefault(MLFLOW_HTTP_REQUEST_MAX_RETRIES.name, str(RETRIES))
    os.environ.setdefault(MLFLOW_HTTP_REQUEST_TIMEOUT.name, str(REQUEST_SECONDS))
