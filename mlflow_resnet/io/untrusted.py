"""Reads files that may be damaged or hostile; every problem is a ValueError or an OSError."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mlflow_resnet.io.text.characters import presentable

T = TypeVar("T")
MOST_JSON = 64 * 2**20  # bytes
TYPE_NAMES = {str: "text", int: "an integer", float: "a number", bool: "true or false", NoneType: "null"}


def read_plain(path: str | os.PathLike[str], most: int | None = None, follow: bool = False) -> bytes:
    """The content of a file of at most so many bytes that is no device or pipe, nor a link unless it is to `follow`."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no plain file")
        if most is not None and status.st_size > most:
            raise ValueError(f"{status.st_size} bytes, more than the {most} that it can have")
        return file.read()


def parse_json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_fields(content: bytes | str) -> dict[str, Any]:
    """A JSON object."""
    facts = parse_json(content)
    if not isinstance(facts, dict):
        raise ValueError(f"{shorten_value(facts)}, where an object with fields is expected")
    return facts


def check_fields(facts: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raises ValueError for a field that is not of its kind: a type, such as `dict[str, float]`, or a union of them.

    A field that there is not is none of its concern.
    """
    for name, kind in kinds.items():
        if name in facts and not is_of_kind(facts[name], kind):
            raise ValueError(f"{name} is {shorten_value(facts[name])}; expected {describe_kind(kind)}")


def build_record(kind: type[T], facts: Any) -> T:
    """The dataclass `kind` with these fields. Raises ValueError unless there are all of them, and each of its type."""
    if not isinstance(facts, Mapping):
        raise ValueError(f"{shorten_value(facts)}, where an object with fields is expected")
    check_fields(facts, get_type_hints(kind))
    if unknown := facts.keys() - {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        raise ValueError(f"unknown field {shorten_value(min(unknown))}")
    try:
        return kind(**facts)
    except TypeError as error:  # one is missing
        raise ValueError(str(error)) from None


def is_of_kind(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(is_of_kind(value, each) for each in inner)
    if origin is dict or origin is Mapping:
        return isinstance(value, Mapping) and all(
            isinstance(k, str) and is_of_kind(v, inner[1]) for k, v in value.items()
        )
    if origin is list:
        return isinstance(value, list) and all(is_of_kind(each, inner[0]) for each in value)
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def describe_kind(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return " or ".join(map(describe_kind, get_args(kind)))
    if get_origin(kind) is list:
        return f"a list, of {describe_kind(get_args(kind)[0])} each"
    return TYPE_NAMES.get(kind, "an object with fields")


def shorten_value(value: Any) -> str:
    text = presentable(repr(value))  # before it is cut: half a URI would show its password
    return text if len(text) <= 40 else f"{text[:40]}…"
