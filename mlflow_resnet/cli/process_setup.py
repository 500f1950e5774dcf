"""What the command line sets for its whole process and for those that it starts. No library call does."""

from __future__ import annotations

import os
import signal
import sys

from mlflow_resnet.io.console import SIGTERM_EXIT_CODE
from mlflow_resnet.io.process import claim_process

# How long MLflow asks a server, unless the user has said so. Its own defaults, 7 and 120, would keep a user waiting for
# a quarter of an hour; an artifact store may take a minute to keep a large file.
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


def prepare_process() -> None:
    """Makes this process ours: SIGTERM ends it as an exception does, and requests of MLflow are bounded."""
    claim_process()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))
    for name, value in REQUESTS.items():
        os.environ.setdefault(name, value)
