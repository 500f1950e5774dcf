"""Loaded by the server's workers: users as MLflow knows them, and requests that wait between two SQL statements.

An SQL statement of a request waits as long as its header says. So a race is a part of the program that found
it: it is drawn, shrunk and played again like everything else.
"""

from __future__ import annotations

import time
from typing import Any

import flask
from mlflow.server.auth import authenticate_request_basic_auth
from sqlalchemy import event
from sqlalchemy.engine import Engine

WAIT_HEADER = "X-Checker-Wait"  # "2:FROM model_versions:60": the second statement that has these words waits 60 ms


def authenticate() -> Any:
    return authenticate_request_basic_auth()


@event.listens_for(Engine, "before_cursor_execute")
def wait(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    """Waits if it is this statement's turn. The users' own database does not count."""
    if not flask.has_request_context() or str(connection.engine.url).endswith("auth.db"):
        return
    turn, words, milliseconds = flask.request.headers.get(WAIT_HEADER, "0::0").split(":")
    if words and words in " ".join(statement.split()):
        flask.g.statements = flask.g.get("statements", 0) + 1
        if flask.g.statements == int(turn):
            time.sleep(int(milliseconds) / 1000)
