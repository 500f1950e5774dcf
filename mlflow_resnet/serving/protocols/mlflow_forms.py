"""JSON, CSV and Parquet, in the forms that MLflow's scoring server takes."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
from starlette.responses import JSONResponse

from mlflow_resnet.errors import RefusedBodyError
from mlflow_resnet.scoring.columns import Columns, as_list
from mlflow_resnet.scoring.over_http.bodies import (
    CSV,
    INVALID_JSON,
    JSON,
    NOT_ONE_FORM,
    UNREADABLE_CSV,
    UNREADABLE_PARQUET,
)
from mlflow_resnet.scoring.over_http.mlflows_server import CANNOT_BE_USED
from mlflow_resnet.serving.protocols.question import Question, check_params

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
OTHER_FIELDS = {"params", "signature_name"}
SPLIT_FIELDS = {"columns", "index", "data"}


def parse_table(kind: str, content: bytes) -> Question:
    """Returns what a body of JSON, CSV or Parquet asks."""
    if kind == JSON:
        return parse_mlflow_json(content)
    read, problem = (pd.read_csv, UNREADABLE_CSV) if kind == CSV else (pd.read_parquet, UNREADABLE_PARQUET)
    try:
        return Question(read(io.BytesIO(content)), {})
    except Exception:  # pandas and pyarrow share no base class
        raise RefusedBodyError(problem) from None


def parse_mlflow_json(content: bytes) -> Question:
    body = load_json(content)
    given = [form for form in FORMS if form in body] if isinstance(body, dict) else []
    if len(given) != 1 or body.keys() - OTHER_FIELDS != {given[0]}:
        raise RefusedBodyError(NOT_ONE_FORM)
    (form,) = given
    params = check_params(body.get("params"))
    try:
        return Question(build_table(form, body[form]), params)
    except (TypeError, ValueError, AttributeError, KeyError):  # rows of different lengths, names that are lists
        raise RefusedBodyError(CANNOT_BE_USED) from None


def load_json(content: bytes) -> Any:
    """Raises RefusedBodyError for what is no JSON."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno} (char {error.pos})"
        raise RefusedBodyError(f"{INVALID_JSON}: {place}") from None
    except (RecursionError, ValueError):
        raise RefusedBodyError(INVALID_JSON) from None


def build_table(form: str, value: Any) -> Any:
    """Returns images in a form that `predict` takes; TypeError, ValueError or KeyError if they have none."""
    if form == "dataframe_split":
        if not {"data"} <= value.keys() <= SPLIT_FIELDS:
            raise KeyError(form)
        return pd.DataFrame(value["data"], index=value.get("index"), columns=value.get("columns"))
    if form == "dataframe_records":
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise TypeError(form)
        return pd.DataFrame(value)
    return value


def format_records(columns: Columns) -> JSONResponse:
    """The rows, as MLflow's scoring server writes them. What is missing is null."""
    rows = zip(*map(as_list, columns.values()), strict=True)
    return JSONResponse({"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})
