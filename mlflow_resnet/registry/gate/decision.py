"""Rules and facts: may the alias move? Nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_resnet.registry.evidence import Evidence
from mlflow_resnet.registry.gate.measurement import evidence_for, of_evidence, overtaken
from mlflow_resnet.registry.gate.rule import BY, Rule
from mlflow_resnet.registry.gate.situation import Situation, Verdict, is_rollback


def judge(rules: Sequence[Rule], situation: Situation) -> list[tuple[Rule, Verdict]]:
    """What is missing for each rule. One measurement must meet all rules that are enforced.

    A way back needs none, where the rule allows it; but the version must be one that can be loaded.
    """
    found, unreadable = evidence_for(situation)
    back = is_rollback(situation)
    asking = [rule for rule in rules if not (back and rule.allows_rollback)]
    best = min(found, key=lambda evidence: count_what_lacks(asking, situation, evidence), default=None)
    return [
        (
            rule,
            judge_rule(rule, situation, best, unreadable) if rule in asking else Verdict(tuple(unloadable(situation))),
        )
        for rule in rules
    ]


def count_what_lacks(rules: Sequence[Rule], situation: Situation, evidence: Evidence) -> tuple[int, int]:
    """How much a measurement lacks for the rules that are enforced, and for those that are only tried."""
    enforced = [len(of_evidence(rule, situation, evidence)) for rule in rules if rule.is_enforced]
    tried = [len(of_evidence(rule, situation, evidence)) for rule in rules if not rule.is_enforced]
    return sum(enforced), sum(tried)


def judge_rule(rule: Rule, situation: Situation, evidence: Evidence | None, unreadable: Sequence[str]) -> Verdict:
    """What the version and its measurement lack."""
    missing = [*unloadable(situation), *of_version(rule, situation), *of_approval(rule, situation)]
    if not evidence:
        return Verdict((*missing, *unreadable, f"no evidence for @{situation.alias}: it was not measured"))
    missing += of_evidence(rule, situation, evidence)
    stale = overtaken(situation, evidence)
    return Verdict(tuple(missing), evidence.tag, bool(stale) and missing == stale)


def unloadable(situation: Situation) -> list[str]:
    """Why the version cannot be loaded, so far as the server knows."""
    wrong = [] if situation.status == "READY" else [f"its status is {situation.status}; expected READY"]
    return [*situation.proven.problems, *wrong]


def of_version(rule: Rule, situation: Situation) -> list[str]:
    """What the version lacks, whatever was measured."""
    missing = []
    for name, wanted in rule.require.tags.items():
        if name not in situation.tags:
            missing.append(f"tag {name} is missing" + (f"; expected {wanted!r}" if wanted else ""))
        elif wanted is not None and situation.tags[name] != wanted:
            missing.append(f"tag {name} is {situation.tags[name]!r}; expected {wanted!r}")
    if rule.require.flavor and rule.require.flavor not in situation.proven.flavors:
        missing.append(
            f"its flavors are {', '.join(situation.proven.flavors) or 'unknown'}; expected {rule.require.flavor}"
        )
    if rule.require.signature and not situation.proven.signature:
        missing.append("its model has no signature")
    return missing


def of_approval(rule: Rule, situation: Situation) -> list[str]:
    """What the approval lacks. Who gave it is what the gate wrote down, not what a client says."""
    if not rule.approval:
        return []
    tag, by = rule.approval.tag, situation.tags.get(rule.approval.tag + BY, "")
    if situation.tags.get(tag, "").casefold() != "true":
        return [f"tag {tag} is {situation.tags.get(tag, 'missing')}; expected true, set by who approves"]
    if not rule.approval.by_another_user:
        return []
    if not situation.user:
        return [
            "approval by another user is asked for, but the server has no users; start it with --app-name basic-auth"
        ]
    if not by:
        return [f"who set tag {tag} is not known; set it again, on this server"]
    if by == situation.user:
        return [f"tag {tag} was set by {by}, who also moves the alias; expected another user"]
    return []
