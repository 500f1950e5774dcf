"""One measurement of a version: whether it is of this version, true, fresh and good enough."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from mlflow_resnet.registry.evidence import TAG, Evidence, EvidenceError, from_text, verified
from mlflow_resnet.registry.gate.comparison import worse
from mlflow_resnet.registry.gate.rule import Rule
from mlflow_resnet.registry.gate.situation import Proven, Situation, moves_of_the_gate
from mlflow_resnet.registry.history import shown

CLOCKS = timedelta(minutes=10)  # by which the clock of who measured may be ahead
PREFIXES = ("", "test_", "val_")  # of a metric's name on the logged model, by the part of the data


def evidence_for(situation: Situation) -> tuple[list[Evidence], list[str]]:
    """The evidence for this alias among the version's tags, and what is wrong with tags that cannot be read."""
    found, problems = [], []
    for name, text in sorted(situation.tags.items()):
        if not name.startswith(TAG) or not name.endswith(f".{situation.alias}"):
            continue
        try:
            evidence = from_text(text)
        except EvidenceError as error:
            problems.append(f"tag {name}: {error.message}")
            continue
        if evidence.tag == name:
            found.append(evidence)
        else:
            problems.append(f"tag {name} holds what belongs into {evidence.tag}")
    return found, problems


def of_evidence(rule: Rule, situation: Situation, evidence: Evidence) -> list[str]:
    """What one measurement lacks."""
    missing = [
        *of_identity(situation, evidence),
        *of_origin(rule, situation, evidence),
        *of_champion(rule, situation, evidence),
    ]
    missing += overtaken(situation, evidence) or outlived(situation, evidence)
    for name, bounds in rule.require.metrics.items():
        value = evidence.metrics.get(name)
        if value is None:
            missing.append(f"{name} was not measured")
        elif bounds.min is not None and not value >= bounds.min:
            missing.append(f"{name} is {value:.6g}; expected at least {bounds.min:g}")
        elif bounds.max is not None and not value <= bounds.max:
            missing.append(f"{name} is {value:.6g}; expected at most {bounds.max:g}")
    if rule.not_worse and evidence.champion:
        missing += worse(rule.not_worse, evidence, evidence.champion)
    return missing


def of_identity(situation: Situation, evidence: Evidence) -> list[str]:
    """Whether what was measured is this version and these weights. A copied tag is of another one."""
    known = {
        "name": situation.name,
        "version": situation.version,
        "alias": situation.alias,
        "model_id": situation.proven.model_id,
        "model_sha256": situation.proven.model_sha256,
    }
    measured = {name: getattr(evidence, name) for name in known}
    return [
        f"{name} of the evidence is {measured[name]}; expected {known[name]}"
        for name in known
        if measured[name] != known[name]
    ]


def of_origin(rule: Rule, situation: Situation, evidence: Evidence) -> list[str]:
    """Whether it is of the right images, fresh, signed and equal to what the server knows."""
    missing = []
    if evidence.images == 0:
        missing.append("it was measured on 0 images")
    if rule.require.dataset_digest and evidence.dataset_digest not in rule.require.dataset_digest:
        wanted = " or ".join(rule.require.dataset_digest)
        missing.append(f"it was measured on data with digest {evidence.dataset_digest}; expected {wanted}")
    age = situation.now - parse_time(evidence.measured_at)
    if age < -CLOCKS:
        missing.append(f"it was measured at {evidence.measured_at}, which is yet to come")
    if rule.require.max_age_days is not None and age > timedelta(days=rule.require.max_age_days):
        missing.append(f"it was measured at {evidence.measured_at}, more than {rule.require.max_age_days:g} days ago")
    if rule.signed and not (situation.key and verified(evidence, situation.key)):
        missing.append("its signature is missing or was not made with the server's key")
    if rule.logged:
        names = [*rule.require.metrics, *([rule.not_worse.metric] if rule.not_worse else [])]
        for name in dict.fromkeys(names):
            missing += unlogged(situation.proven, evidence, name, evidence.metrics.get(name, math.nan), "logged model")
    return missing


def parse_time(time: str) -> datetime:
    return datetime.fromisoformat(time)


def of_champion(rule: Rule, situation: Situation, evidence: Evidence) -> list[str]:
    """Whether the champion of the evidence is the one that the server knows, and so are its numbers."""
    measured, known = evidence.champion, situation.standing
    if not (measured and known) or measured.version != situation.champion:
        return []  # `overtaken` tells
    if not known.model_id:
        return [f"of the champion, {problem}" for problem in known.problems] if rule.not_worse else []
    facts = {"model_id": known.model_id, "model_sha256": known.model_sha256 or measured.model_sha256}
    missing = [
        f"{name} of the champion in the evidence is {getattr(measured, name)}; expected {facts[name]}"
        for name in facts
        if getattr(measured, name) != facts[name]
    ]
    if rule.logged and rule.not_worse:
        name = rule.not_worse.metric
        missing += unlogged(known, evidence, name, measured.metrics.get(name, math.nan), "champion's logged model")
    return missing


def unlogged(known: Proven, evidence: Evidence, name: str, value: float, owner: str) -> list[str]:
    """Whether a logged model has the metric too, of the same images and with the same value."""
    names = {prefix + each for prefix in PREFIXES for each in ({name, "loss"} if name == "log_loss" else {name})}
    same = [each for each in known.metrics if each.dataset_digest == evidence.dataset_digest and each.name in names]
    if any(math.isclose(each.value, value, rel_tol=1e-6, abs_tol=1e-6) for each in same):
        return []
    found = ", ".join(f"{each.value:.6g}" for each in same) or "not there"
    return [f"{name} of the {owner} on these images is {found}; the evidence says {value:.6g}"]


def outlived(situation: Situation, evidence: Evidence) -> list[str]:
    """Whether the version lost the alias since it was measured: what was taken back must be measured again."""
    losses = [
        entry.time for entry in moves_of_the_gate(situation.past) if entry.before == situation.version != entry.after
    ]
    if not losses or parse_time(evidence.measured_at) >= parse_time(losses[-1]):
        return []
    return [f"it was measured at {evidence.measured_at}, before it lost @{situation.alias} at {losses[-1]}"]


def overtaken(situation: Situation, evidence: Evidence) -> list[str]:
    """Whether the champion that it was compared with still is the one: compare and set."""
    measured = evidence.champion.version if evidence.champion else None
    if measured == situation.champion:
        return []
    newest = situation.past[-1] if situation.past else None
    moved = f", since {newest.time}, moved by {newest.who}" if newest and newest.after == situation.champion else ""
    return [
        f"it was measured against {shown(measured)}, but {shown(situation.champion)} is @{situation.alias} now{moved}"
    ]
