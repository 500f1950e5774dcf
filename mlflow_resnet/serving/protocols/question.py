"""What a request asks, whatever protocol it came in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_resnet.errors import RefusedBodyError
from mlflow_resnet.options.predict import PARAMS, explain_unknown_params
from mlflow_resnet.scoring.over_http.bodies import PARAMS_NO_OBJECT

BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Question:
    """Images, and how to look at them.

    Attributes:
        images: in any form that `predict` takes over HTTP.
        params: of `predict`, by name.
        names: of the images, for their rows; None if they have none of their own.
    """

    images: Any
    params: Mapping[str, Any]
    names: tuple[str, ...] | None = None


def check_params(params: Any) -> dict[str, Any]:
    """Returns params that came as JSON. Raises RefusedBodyError unless names and types are those of `predict`."""
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise RefusedBodyError(PARAMS_NO_OBJECT)
    check_param_names(params)
    for name, value in params.items():
        kind = type(PARAMS[name])
        allowed = (int, float) if kind is float else (kind,)
        if value is not None and (isinstance(value, bool) != (kind is bool) or not isinstance(value, allowed)):
            raise RefusedBodyError(f"{name} must be of type {kind.__name__}")
    return params


def parse_params(texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Returns params that came as text, in a query or a form. Raises RefusedBodyError for what they cannot be."""
    params: dict[str, Any] = {}
    for name, text in texts:
        check_param_names([name])
        if name in params:
            raise RefusedBodyError(f"{name} is given twice")
        kind = type(PARAMS[name])
        try:
            params[name] = BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise RefusedBodyError(f"{name} must be of type {kind.__name__}") from None
    return params


def merge_params(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Raises RefusedBodyError if a param is given in both."""
    if twice := sorted(one.keys() & other.keys()):
        raise RefusedBodyError(f"{twice[0]} is given twice")
    return {**one, **other}


def check_param_names(names: Iterable[str]) -> None:
    if any(name not in PARAMS for name in names):
        raise RefusedBodyError(explain_unknown_params(()).message)
