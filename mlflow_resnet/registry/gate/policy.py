"""The rules of the gate: read from a YAML file, checked as a whole, read again when the file changes.

docs/gate.md tells what each field means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mlflow_resnet.errors import PathError
from mlflow_resnet.registry.evidence import KEY_VARIABLE, read_signing_key
from mlflow_resnet.registry.gate.mistakes import find_mistakes
from mlflow_resnet.registry.gate.rule import Rule
from mlflow_resnet.registry.validation import list_problems


class UniqueKeysLoader(yaml.SafeLoader):
    """YAML loader that refuses repeated keys, which PyYAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class InvalidPolicyError(PathError):
    """The file with the rules has mistakes; all of them are listed at once."""

    has_lines = True

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} mistake{'s' * (len(problems) != 1)} in the policy"
        super().__init__(path, "\n  - ".join([f"{count}; docs/gate.md has the fields", *problems]))


@dataclass(frozen=True)
class Policy:
    """All rules.

    Attributes:
        digest: the first 12 hexadecimal digits of the sha256 of the text.
    """

    rules: tuple[Rule, ...]
    digest: str

    def find_model_rules(self, name: str) -> list[Rule]:
        """The rules about any alias of a model."""
        return [rule for rule in self.rules if rule.covers(name)]

    def find_alias_rules(self, name: str, alias: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.guards(name, alias)]


def read_policy(path: Path) -> Policy:
    """The rules in a file.

    Raises:
        InvalidPolicyError: if it cannot be read or has mistakes; tells all of them.
    """
    try:
        content = path.read_bytes()
        facts = yaml.load(content, UniqueKeysLoader)
    except OSError as error:
        raise InvalidPolicyError(path, [f"it cannot be read ({error.strerror})"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidPolicyError(path, [f"not YAML ({' '.join(str(error).split())})"]) from None
    if not isinstance(facts, list) or not facts:
        raise InvalidPolicyError(path, ["it has no rules; expected a list, each rule with models: and alias:"])
    rules, problems = read_rules(facts)
    if any(isinstance(each, dict) and each.get("signed") is True for each in facts) and not read_signing_key():
        problems.append(f"signed is true, but the server has no key; set {KEY_VARIABLE} in its environment")
    if problems:
        raise InvalidPolicyError(path, problems)
    return Policy(tuple(rules), hashlib.sha256(content).hexdigest()[:12])


def read_rules(facts: Sequence[object]) -> tuple[list[Rule], list[str]]:
    """The rules that can be read, and what is wrong with any of them."""
    rules: dict[int, Rule] = {}
    problems: list[str] = []
    for number, each in enumerate(facts, 1):
        try:
            rules[number] = Rule.model_validate(each)
        except ValidationError as error:
            problems += list_problems(error, f"rule {number}")
    return list(rules.values()), problems + find_mistakes(rules)
