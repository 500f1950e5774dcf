"""Decides from rules and facts whether an alias may move. Pure functions: nothing is read from stores or files."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_resnet.registry.evidence import Evidence
from mlflow_resnet.registry.gate.measurement import evidence_for, find_changed_champion, find_evidence_gaps
from mlflow_resnet.registry.gate.rule import BY, Rule
from mlflow_resnet.registry.gate.situation import Situation, Verdict, is_rollback


def judge(rules: Sequence[Rule], situation: Situation) -> list[tuple[Rule, Verdict]]:
    """Returns each rule's verdict on a move. One measurement must meet all rules that are enforced.

    A way back needs none, where the rule allows it; but the version must be one that can be loaded.
    """
    found, unreadable = evidence_for(situation)
    back = is_rollback(situation)
    asking = [rule for rule in rules if not (back and rule.allows_rollback)]
    best = min(found, key=lambda evidence: count_gaps(asking, situation, evidence), default=None)
    free = Verdict(tuple(find_load_gaps(situation)))
    return [(rule, judge_rule(rule, situation, best, unreadable) if rule in asking else free) for rule in rules]


def count_gaps(rules: Sequence[Rule], situation: Situation, evidence: Evidence) -> tuple[int, int]:
    """Counts the gaps of a measurement for rules that are enforced and for dry-run rules."""
    enforced = [len(find_evidence_gaps(rule, situation, evidence)) for rule in rules if rule.is_enforced]
    tried = [len(find_evidence_gaps(rule, situation, evidence)) for rule in rules if not rule.is_enforced]
    return sum(enforced), sum(tried)


def judge_rule(rule: Rule, situation: Situation, evidence: Evidence | None, unreadable: Sequence[str]) -> Verdict:
    """Returns the gaps of the version and its measurement for one rule."""
    missing = [*find_load_gaps(situation), *find_version_gaps(rule, situation), *find_approval_gaps(rule, situation)]
    if not evidence:
        return Verdict((*missing, *unreadable, f"no evidence for @{situation.alias}: it was not measured"))
    missing += find_evidence_gaps(rule, situation, evidence)
    stale = find_changed_champion(situation, evidence)
    return Verdict(tuple(missing), evidence.tag, bool(stale) and missing == stale)


def find_load_gaps(situation: Situation) -> list[str]:
    """Returns why the version cannot be loaded, as far as the server knows."""
    wrong = [] if situation.status == "READY" else [f"its status is {situation.status}; expected READY"]
    return [*situation.proven.problems, *wrong]


def find_version_gaps(rule: Rule, situation: Situation) -> list[str]:
    """Returns the gaps of the version that do not depend on a measurement."""
    missing = []
    for name, wanted in rule.require.tags.items():
        if name not in situation.tags:
            missing.append(f"tag {name} is missing" + (f"; expected {wanted!r}" if wanted else ""))
        elif wanted is not None and situation.tags[name] != wanted:
            missing.append(f"tag {name} is {situation.tags[name]!r}; expected {wanted!r}")
    if rule.require.flavor and rule.require.flavor not in situation.proven.flavors:
        flavors = ", ".join(situation.proven.flavors) or "unknown"
        missing.append(f"its flavors are {flavors}; expected {rule.require.flavor}")
    if rule.require.signature and not situation.proven.signature:
        missing.append("its model has no signature")
    return missing


def find_approval_gaps(rule: Rule, situation: Situation) -> list[str]:
    """Returns the gaps of the approval. Who gave it is what the gate wrote down, not what a client says."""
    if not rule.approval:
        return []
    tag, by = rule.approval.tag, situation.tags.get(rule.approval.tag + BY, "")
    value = situation.tags.get(tag, "missing")
    if value.casefold() != "true":
        return [f"tag {tag} is {value}; expected true, set by who approves"]
    if not rule.approval.by_another_user:
        return []
    if not situation.user:
        asked = "approval by another user is asked for, but the server has no users"
        return [f"{asked}; start it with --app-name basic-auth"]
    if not by:
        return [f"who set tag {tag} is not known; set it again, on this server"]
    if by == situation.user:
        return [f"tag {tag} was set by {by}, who also moves the alias; expected another user"]
    return []
