"""The policy, as plain values: written to YAML for the server, and read by the judge as they are here."""

from __future__ import annotations

import hashlib
import unicodedata
from fnmatch import fnmatchcase
from typing import Any

import yaml

Rule = dict[str, Any]
DATA, OTHER_DATA = "aaaa000011112222", "bbbb000011112222"
GOOD = {"metrics": {"top1_accuracy": {"min": 0.5}}, "dataset_digest": DATA}
RULES: list[Rule] = [
    {"models": "plain*", "alias": "champion", "require": GOOD},
    {"models": "signed*", "alias": "champion", "signed": True, "require": GOOD | {"max_age_days": 30}},
    {"models": "both*", "alias": "champion", "rollback": "forbidden", "signed": True},
    {
        "models": "both*",
        "alias": "cham*",
        "rollback": "forbidden",
        "require": {"metrics": {"top1_accuracy": {"min": 0.8}}},
    },
    {
        "models": "logged*",
        "alias": "champion",
        "logged": True,
        "require": GOOD,
        "not_worse": {"metric": "top1_accuracy", "by": 0.05},
    },
    {"models": "real*", "alias": "champion", "signed": True},
    {"models": "approved*", "alias": "champion", "approval": {"tag": "approved", "by_another_user": True}},
    {"models": "tried*", "alias": "champion", "mode": "dry-run", "require": GOOD},
    {"models": "removable*", "alias": "*", "remove": "allowed", "require": GOOD},
]
STRICT = [{key: value for key, value in rule.items() if key != "mode"} for rule in RULES]  # what was tried is enforced
KINDS = ("free", *dict.fromkeys(rule["models"].rstrip("*") for rule in RULES if rule["models"] != "real*"))


def text_of(rules: list[Rule]) -> str:
    return yaml.safe_dump(rules, sort_keys=False)


def digest_of(rules: list[Rule]) -> str:
    """What the history calls a policy."""
    return hashlib.sha256(text_of(rules).encode()).hexdigest()[:12]


POLICIES = {digest_of(rules): rules for rules in (RULES, STRICT)}


def folded(text: str) -> str:
    """Without case and accents."""
    plain = (each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return "".join(plain).casefold().strip()


def guarding(rules: list[Rule], name: str, alias: str) -> list[Rule]:
    return [
        rule
        for rule in rules
        if fnmatchcase(folded(name), rule["models"]) and fnmatchcase(folded(alias), rule["alias"])
    ]


def is_tried(rule: Rule) -> bool:
    return rule.get("mode") == "dry-run"
