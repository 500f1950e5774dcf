"""Records that people or strangers wrote: what their fields may hold, and their mistakes in a sentence each."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

from mlflow_resnet.io.untrusted import shorten_value

UNEXPECTED, MISTAKE = "unexpected", "mistake"  # the two kinds of our own errors


class Record(BaseModel):
    """Fields of exactly the types that they say, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def expect(wanted: str) -> WrapValidator:
    """Replaces all that is wrong with a value by one clause: "is <value>; expected <wanted>"."""

    def validate(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(UNEXPECTED, wanted) from None

    return WrapValidator(validate)


def build_mistake(clause: str) -> PydanticCustomError:
    """An error that says in a clause of its own what is wrong with a value."""
    return PydanticCustomError(MISTAKE, "{clause}", {"clause": clause})


def require_finite(value: float) -> float:
    """Refuses NaN, infinity, and integers that no float can hold."""
    if abs(value) <= sys.float_info.max:
        return value
    raise ValueError


Number = Annotated[int | float, AfterValidator(require_finite)]


def list_problems(error: ValidationError, where: str = "") -> list[str]:
    """One clause for each mistake, which begins with `where` and the names of the fields that lead to it."""
    return [describe_problem(where, each) for each in error.errors(include_url=False)]


def describe_problem(where: str, problem: ErrorDetails) -> str:
    kind, said, value = problem["type"], problem["msg"], shorten_value(problem["input"])
    path = [where, *map(str, problem["loc"])] if where else [*map(str, problem["loc"])]
    if kind in ("extra_forbidden", "invalid_key"):
        name = problem["loc"][-1] if kind == "extra_forbidden" else problem["input"]
        return ": ".join([*path[:-1], f"{name!r} is not a field"])
    wanted = said if kind == UNEXPECTED else WANTED.get(kind, said)
    clause = {MISTAKE: said, "missing": "is missing"}.get(kind, f"is {value}; expected {wanted}")
    if path[-1] == "[key]":
        path = path[:-1] if kind == MISTAKE else path[:-2]
        clause = said if kind == MISTAKE else f"has the name {value}; expected {wanted}"
    return f"{': '.join(path)} {clause}"


WANTED = {  # by pydantic's name of the error
    "string_type": "text",
    "dict_type": "names with values",
    "model_type": "fields with values",
}
