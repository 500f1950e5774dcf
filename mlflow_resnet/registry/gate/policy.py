"""The rules of the gate: read from a YAML file, checked as a whole, read again when the file changes.

docs/gate.md tells what each field means.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mlflow_resnet.errors import PathError
from mlflow_resnet.options.metric_names import FRACTIONS, LOWER_IS_BETTER
from mlflow_resnet.registry.evidence import KEY_VARIABLE, read_signing_key
from mlflow_resnet.registry.gate.rule import Bounds, NotWorse, Rule
from mlflow_resnet.registry.names import fold_case
from mlflow_resnet.registry.validation import list_problems

_logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 1.0


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
    rules: dict[int, Rule] = {}
    problems: list[str] = []
    for number, each in enumerate(facts, 1):
        try:
            rules[number] = Rule.model_validate(each)
        except ValidationError as error:
            problems += list_problems(error, f"rule {number}")
    problems += find_mistakes(rules)
    if any(isinstance(each, dict) and each.get("signed") is True for each in facts) and not read_signing_key():
        problems.append(f"signed is true, but the server has no key; set {KEY_VARIABLE} in its environment")
    if problems:
        raise InvalidPolicyError(path, problems)
    return Policy(tuple(rules.values()), hashlib.sha256(content).hexdigest()[:12])


def find_mistakes(rules: Mapping[int, Rule]) -> list[str]:
    """Describes what is wrong with rules whose fields can be read, by their numbers in the file."""
    found = [f"rule {number}: {each}" for number, rule in rules.items() for each in find_mistakes_in_rule(rule)]
    numbers, names = list(rules), ("models", "alias")
    alike = [
        rule.model_copy(update={name: fold_case(getattr(rule, name)) for name in names}) for rule in rules.values()
    ]
    for place, rule in enumerate(alike):
        if (first := alike.index(rule)) != place:
            found.append(f"rule {numbers[place]} says the same as rule {numbers[first]}; remove one of them")
    return found


def find_mistakes_in_rule(rule: Rule) -> Iterator[str]:
    for metric, bounds in rule.require.metrics.items():
        yield from find_bounds_mistakes(f"require: metrics: {metric}", metric, bounds)
    if rule.not_worse:
        yield from find_limit_mistakes(rule.not_worse)
    if rule.logged and not rule.require.metrics and not rule.not_worse:
        yield "logged is true, but no metric is asked for; add require: metrics: or not_worse:"
    if rule.logged and not rule.signed and rule.not_worse and rule.not_worse.kind == "significant":
        yield (
            "logged is true, but the images that only one model has right are logged nowhere; "
            "add signed: true, or compare with by: or relative: instead of significant:"
        )


def find_bounds_mistakes(field: str, metric: str, bounds: Bounds) -> Iterator[str]:
    """Yields why bounds cannot be met, or refuse nothing."""
    highest = 1.0 if metric in FRACTIONS else float("inf")
    for name, bound in (("min", bounds.min), ("max", bounds.max)):
        if bound is not None and not 0 <= bound <= highest:
            yield f"{field}: {name} is {bound:g}; expected a number from 0{f' to {highest:g}' * (highest == 1)}"
    if bounds.min is not None and bounds.max is not None and bounds.max < bounds.min:
        yield f"{field}: max is {bounds.max:g}, less than min, {bounds.min:g}"


def find_limit_mistakes(limit: NotWorse) -> Iterator[str]:
    """Yields why a comparison with the champion refuses nothing, or the wrong thing."""
    name, metric = limit.kind, limit.metric
    if limit.is_lower_better != (metric in LOWER_IS_BETTER):
        said = str(limit.is_lower_better).lower()
        yield f"not_worse: lower_is_better is {said}, which is wrong of {metric}; remove it"
    if name != "significant" and metric in FRACTIONS and limit.limit >= 1:
        yield f"not_worse: {name} is {limit.limit:g}, which allows everything; expected less than 1"
    if name == "significant" and limit.limit == 0:
        yield "not_worse: significant is 0, which allows everything; expected more, such as 0.05"
    if name == "significant" and metric != "top1_accuracy":
        yield f"not_worse: metric is {metric!r}; expected top1_accuracy, of which significant compares the images"


class PolicyFile:
    """The policy as the file has it now. A change with mistakes leaves the rules as they were.

    A thread looks too: a worker that nobody asks for a while must not miss rules that came before such a change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = self.state()
        self.policy = read_policy(path)
        self.reading = threading.Lock()
        threading.Thread(target=self.watch, daemon=True, name="watches the policy").start()

    def watch(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self.current()

    def state(self) -> tuple[int, int, int] | None:
        """Returns what changes when the file is written or replaced."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def current(self) -> Policy:
        with self.reading:
            state = self.state()
            if state != self.seen:
                self.seen = state
                try:
                    self.policy = read_policy(self.path)
                    _logger.warning("%s: read again, policy %s", self.path, self.policy.digest)
                except InvalidPolicyError as error:
                    _logger.error("%s\nThe rules stay as they were, policy %s.", error.message, self.policy.digest)
            return self.policy
