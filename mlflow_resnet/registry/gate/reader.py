"""Reads a mapping that a person wrote in YAML, and lists all of its mistakes instead of the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from mlflow_resnet.registry.evidence import is_finite


class UniqueKeysLoader(yaml.SafeLoader):
    """YAML without the same key twice, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Reader:
    """The fields of one mapping, taken one after the other."""

    def __init__(self, facts: object, where: str, problems: list[str], name: str = "") -> None:
        self.where, self.problems, self.name = where, problems, name
        self.facts = dict(facts) if isinstance(facts, dict) else {}
        if not isinstance(facts, dict):
            self.wrong("", facts, "fields with values")

    def wrong(self, name: str, value: object, wanted: str) -> None:
        where = f"{self.where}: {name}" if name else self.where
        self.problems.append(f"{where} is {value!r}; expected {wanted}")

    def take(self, name: str, fits: Callable[[Any], bool], wanted: str, default: Any = None) -> Any:
        """A field, which is noted as wrong if it does not fit."""
        if name not in self.facts:
            return default
        value = self.facts.pop(name)
        if fits(value):
            return value
        self.wrong(name, value, wanted)
        return default

    def required(self, name: str, fits: Callable[[Any], bool], wanted: str, default: Any) -> Any:
        if name not in self.facts:
            self.problems.append(f"{self.where}: {name} is missing; expected {wanted}")
        return self.take(name, fits, wanted, default)

    def flag(self, name: str) -> bool:
        return self.take(name, lambda value: isinstance(value, bool), "true or false", False)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of several; the first if there is none."""
        return self.take(name, lambda value: value in choices, " or ".join(choices), choices[0])

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        wanted = "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
        return self.take(name, lambda value: is_finite(value) and low <= value <= high, wanted)

    def part(self, name: str) -> Reader | None:
        """A field that is a mapping of its own."""
        if name not in self.facts:
            return None
        part = Reader(value := self.facts.pop(name), f"{self.where}: {name}", self.problems, name)
        if value == {}:
            self.problems.append(f"{part.where} is empty; fill it or remove it")
        return part

    def parts(self) -> list[Reader]:
        """All fields, each a mapping of its own."""
        return [Reader(facts, f"{self.where}: {name}", self.problems, str(name)) for name, facts in self.facts.items()]

    def end(self) -> None:
        """Whatever was not taken is a mistake."""
        for name in self.facts:
            self.problems.append(f"{self.where}: {name!r} is not a field")


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_text_or_null(value: object) -> bool:
    return value is None or is_text(value)


def are_texts(value: object) -> bool:
    """One text or a list of some."""
    return is_text(value) or (isinstance(value, list) and bool(value) and all(map(is_text, value)))
