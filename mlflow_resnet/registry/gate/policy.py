"""The rules of the gate: read from a YAML file, checked as a whole, read again when the file changes.

docs/gate.md tells what each field means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mlflow_resnet.errors import PathError
from mlflow_resnet.options.metric_names import LOWER_IS_BETTER
from mlflow_resnet.registry.evidence import KEY_VARIABLE, key_of_environment
from mlflow_resnet.registry.gate.mistakes import find_mistakes
from mlflow_resnet.registry.gate.reader import Reader, UniqueKeysLoader, are_texts, is_text, is_text_or_null
from mlflow_resnet.registry.gate.rule import DRY_RUN, ENFORCE, Approval, Bounds, NotWorse, Rule


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

    def covering(self, name: str) -> list[Rule]:
        """The rules about any alias of a model."""
        return [rule for rule in self.rules if rule.covers(name)]

    def guarding(self, name: str, alias: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.guards(name, alias)]


def read_policy(path: Path) -> Policy:
    """The rules in a file.

    Raises:
        InvalidPolicyError: if it cannot be read or has mistakes; tells all of them.
    """
    problems: list[str] = []
    try:
        content = path.read_bytes()
        facts = yaml.load(content, UniqueKeysLoader)
    except OSError as error:
        raise InvalidPolicyError(path, [f"it cannot be read ({error.strerror})"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidPolicyError(path, [f"not YAML ({' '.join(str(error).split())})"]) from None
    if not isinstance(facts, list) or not facts:
        raise InvalidPolicyError(path, ["it has no rules; expected a list, each rule with models: and alias:"])
    rules = tuple(rule_of(each, f"rule {number}", problems) for number, each in enumerate(facts, 1))
    problems += find_mistakes(rules)
    if any(rule.signed for rule in rules) and not key_of_environment():
        problems.append(f"signed is true, but the server has no key; set {KEY_VARIABLE} in its environment")
    if problems:
        raise InvalidPolicyError(path, problems)
    return Policy(rules, hashlib.sha256(content).hexdigest()[:12])


def rule_of(facts: object, where: str, problems: list[str]) -> Rule:
    """One rule; appends its mistakes to `problems`."""
    reader = Reader(facts, where, problems)
    required = reader.part("require") or Reader({}, where, problems)
    digests = required.take("dataset_digest", are_texts, "a digest, or a list of them, in quotes", [])
    rule = Rule(
        models=reader.required("models", is_text, "a name; * stands for any letters", ""),
        alias=reader.required("alias", is_text, "an alias; * stands for any letters", ""),
        mode=reader.choice("mode", (ENFORCE, DRY_RUN)),
        metrics=bounds_of(required.part("metrics")),
        dataset_digests=(digests,) if isinstance(digests, str) else tuple(digests),
        tags=tags_of(required.part("tags")),
        signature=required.flag("signature"),
        flavor=required.take("flavor", is_text, "the name of a flavor, such as mlflow_resnet"),
        max_age_days=required.number("max_age_days", 0, 36500),
        not_worse=not_worse_of(reader.part("not_worse")),
        approval=approval_of(reader.part("approval")),
        signed=reader.flag("signed"),
        logged=reader.flag("logged"),
        rollback=reader.choice("rollback", ("previous", "forbidden")) == "previous",
        remove=reader.choice("remove", ("forbidden", "allowed")) == "allowed",
    )
    required.end()
    reader.end()
    return rule


def bounds_of(reader: Reader | None) -> dict[str, Bounds]:
    """Metrics with their bounds."""
    found: dict[str, Bounds] = {}
    for part in reader.parts() if reader else ():
        found[part.name] = bounds = Bounds(part.number("min"), part.number("max"))
        if bounds == Bounds(None, None):
            part.problems.append(f"{part.where} has no bound; expected min or max or both")
        part.end()
    return found


def tags_of(reader: Reader | None) -> dict[str, str | None]:
    """Names of tags with the values that they must have, or None for any."""
    wanted = "text in quotes, or null for any value"
    if not reader:
        return {}
    found = {}
    for name in list(reader.facts):
        if is_text(name):
            found[name] = reader.take(name, is_text_or_null, wanted)
        else:
            reader.problems.append(f"{reader.where}: {reader.facts.pop(name)!r} has the name {name!r}; expected text")
    return found


def not_worse_of(reader: Reader | None) -> NotWorse | None:
    if not reader:
        return None
    metric = reader.required("metric", is_text, "the name of a metric", "")
    limits = {kind: reader.number(kind, 0, 1) for kind in ("relative", "significant")} | {"by": reader.number("by", 0)}
    given = {kind: limit for kind, limit in limits.items() if limit is not None}
    if len(given) != 1:
        reader.problems.append(f"{reader.where} has {len(given)} limits; expected one of by, relative, significant")
    lower = reader.take(
        "lower_is_better", lambda value: isinstance(value, bool), "true or false", metric in LOWER_IS_BETTER
    )
    reader.end()
    kind, limit = next(iter(given.items()), ("by", 0.0))
    return NotWorse(metric, kind, limit, lower)


def approval_of(reader: Reader | None) -> Approval | None:
    if not reader:
        return None
    approval = Approval(
        reader.required("tag", is_text, "the name of a tag", ""),
        reader.flag("by_another_user"),
    )
    reader.end()
    return approval
