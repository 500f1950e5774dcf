"""Checks whether an existing run can take a record of ours without contradiction."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from mlflow_resnet.errors import encodable, join_names
from mlflow_resnet.io.text.credentials import without_credentials

RECORD_TAG = "mlflow_resnet.record"  # of a run: which training, sweep or test of learning rates it holds
TRUE, FALSE = (
    ("true", "t", "yes", "y", "on", "1"),
    ("false", "f", "no", "n", "off", "0"),
)  # as the command line has them


def as_logged(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as a run gets them: text that every server takes, without credentials."""
    return {name: without_credentials(encodable(str(value))) for name, value in params.items()}


def find_conflict(run: Run, params: Mapping[str, Any], record_id: str = "") -> str:
    """Returns what in a run contradicts a record with these params; empty if nothing does.

    Args:
        record_id: of the training, sweep or test of learning rates; empty if it is of another kind.
    """
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
    if logged == value[:MAX_PARAM_VAL_LENGTH]:
        return True
    typed = without_credentials(unquote_shell(logged))
    if is_project and os.path.isabs(value):
        return True
    if value in ("True", "False"):
        return typed.casefold() in (TRUE if value == "True" else FALSE)
    try:
        return float(typed) == float(value)
    except ValueError:
        return typed == value


def unquote_shell(text: str) -> str:
    """Unquotes one word as a shell does."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that does not end
        return text
    return words[0] if len(words) == 1 else text
