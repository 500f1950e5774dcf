"""Rules and facts: may the alias move? Nothing here asks anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlflow_resnet.registry.evidence import TAG, Evidence, EvidenceError, from_text, verified
from mlflow_resnet.registry.gate.comparison import worse
from mlflow_resnet.registry.gate.policy import Rule
from mlflow_resnet.registry.history import Entry, champions, shown

CLOCKS = timedelta(minutes=10)  # by which the clock of who measured may be ahead
BY = ".by"  # ends the name of the tag in which the gate writes who set the approval
PREFIXES = ("", "test_", "val_")  # of a metric's name on the logged model, by the part of the data


@dataclass(frozen=True)
class LoggedMetric:
    name: str
    value: float
    dataset_digest: str | None


@dataclass(frozen=True)
class Proven:
    """What the server itself knows of a version, from its logged model.

    Attributes:
        problems: why it is no version of a logged model that is ready; then the rest is empty.
        flavors, signature: of its MLmodel file, if a rule asks for them.
    """

    problems: tuple[str, ...] = ()
    model_id: str = ""
    model_sha256: str = ""
    metrics: tuple[LoggedMetric, ...] = ()
    flavors: tuple[str, ...] = ()
    signature: bool = False


@dataclass(frozen=True)
class Move:
    """An alias that somebody wants to point to a version.

    Attributes:
        tags: of the version.
        status: of the version.
        champion: the version that has the alias now.
        past: the alias's history, oldest first.
        user: who moves it; None where the server has no users.
        key: that evidence is signed with.
        now: with an offset.
    """

    name: str
    alias: str
    version: int
    tags: Mapping[str, str]
    status: str
    proven: Proven
    champion: int | None
    past: Sequence[Entry]
    user: str | None
    key: str
    now: datetime


@dataclass(frozen=True)
class Verdict:
    """What a rule misses, and the name of the tag with the evidence that it looked at.

    Attributes:
        is_overtaken: whether all that is wrong is that another version became champion meanwhile.
    """

    missing: tuple[str, ...]
    evidence: str | None = None
    is_overtaken: bool = False


def is_rollback(move: Move) -> bool:
    """Whether the version is the one that was champion before, and nobody moved the alias past the gate since."""
    moves = [entry for entry in move.past if entry.policy]  # those that the gate wrote
    return champions(moves)[-2:] == [move.version, move.champion] and move.status == "READY"


def judged(rule: Rule, move: Move) -> Verdict:
    """What is missing for the rule."""
    if rule.rollback and is_rollback(move):
        return Verdict(())
    missing = [*move.proven.problems, *of_version(rule, move), *of_approval(rule, move)]
    found, unreadable = evidence_for(move)
    if not found:
        return Verdict((*missing, *unreadable, f"no evidence for @{move.alias}: it was not measured"))
    judgements = {evidence.tag: of_evidence(rule, move, evidence) for evidence in found}
    best = min(judgements, key=lambda tag: len(judgements[tag]))  # several data sets may have been used
    stale = overtaken(move, next(evidence for evidence in found if evidence.tag == best))
    return Verdict((*missing, *judgements[best]), best, bool(stale) and [*missing, *judgements[best]] == stale)


def evidence_for(move: Move) -> tuple[list[Evidence], list[str]]:
    """The evidence for this alias among the version's tags, and what is wrong with tags that cannot be read."""
    found, problems = [], []
    for name, text in sorted(move.tags.items()):
        if not name.startswith(TAG) or not name.endswith(f".{move.alias}"):
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


def of_version(rule: Rule, move: Move) -> list[str]:
    """What the version lacks, whatever was measured."""
    missing = []
    if move.status != "READY":
        missing.append(f"its status is {move.status}; expected READY")
    for name, wanted in rule.tags.items():
        if name not in move.tags:
            missing.append(f"tag {name} is missing" + (f"; expected {wanted!r}" if wanted else ""))
        elif wanted is not None and move.tags[name] != wanted:
            missing.append(f"tag {name} is {move.tags[name]!r}; expected {wanted!r}")
    if rule.flavor and rule.flavor not in move.proven.flavors:
        missing.append(f"its flavors are {', '.join(move.proven.flavors) or 'unknown'}; expected {rule.flavor}")
    if rule.signature and not move.proven.signature:
        missing.append("its model has no signature")
    return missing


def of_approval(rule: Rule, move: Move) -> list[str]:
    """What the approval lacks. Who gave it is what the gate wrote down, not what a client says."""
    if not rule.approval:
        return []
    tag, by = rule.approval.tag, move.tags.get(rule.approval.tag + BY, "")
    if move.tags.get(tag, "").casefold() != "true":
        return [f"tag {tag} is {move.tags.get(tag, 'missing')}; expected true, set by who approves"]
    if not rule.approval.by_another_user:
        return []
    if not move.user:
        return [
            "approval by another user is asked for, but the server has no users; start it with --app-name basic-auth"
        ]
    if not by:
        return [f"who set tag {tag} is not known; set it again, on this server"]
    if by == move.user:
        return [f"tag {tag} was set by {by}, who also moves the alias; expected another user"]
    return []


def of_evidence(rule: Rule, move: Move, evidence: Evidence) -> list[str]:
    """What one measurement lacks."""
    missing = [*of_identity(move, evidence), *of_origin(rule, move, evidence), *overtaken(move, evidence)]
    for name, bounds in rule.metrics.items():
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


def of_identity(move: Move, evidence: Evidence) -> list[str]:
    """Whether what was measured is this version and these weights. A copied tag is of another one."""
    known = {
        "name": move.name,
        "version": move.version,
        "alias": move.alias,
        "model_id": move.proven.model_id,
        "model_sha256": move.proven.model_sha256,
    }
    measured = {name: getattr(evidence, name) for name in known}
    return [
        f"{name} of the evidence is {measured[name]}; expected {known[name]}"
        for name in known
        if measured[name] != known[name]
    ]


def of_origin(rule: Rule, move: Move, evidence: Evidence) -> list[str]:
    """Whether it is of the right images, fresh, signed and equal to what the server knows."""
    missing = []
    if evidence.images == 0:
        missing.append("it was measured on 0 images")
    if rule.dataset_digests and evidence.dataset_digest not in rule.dataset_digests:
        wanted = " or ".join(rule.dataset_digests)
        missing.append(f"it was measured on data with digest {evidence.dataset_digest}; expected {wanted}")
    age = move.now - datetime.fromisoformat(evidence.measured_at)
    if age < -CLOCKS:
        missing.append(f"it was measured at {evidence.measured_at}, which is yet to come")
    if rule.max_age_days is not None and age > timedelta(days=rule.max_age_days):
        missing.append(f"it was measured at {evidence.measured_at}, more than {rule.max_age_days:g} days ago")
    if rule.signed and not (move.key and verified(evidence, move.key)):
        missing.append("its signature is missing or was not made with the server's key")
    if rule.logged:
        names = [*rule.metrics, *([rule.not_worse.metric] if rule.not_worse else [])]
        missing += [each for name in dict.fromkeys(names) for each in unlogged(move.proven.metrics, evidence, name)]
    return missing


def unlogged(metrics: Sequence[LoggedMetric], evidence: Evidence, name: str) -> list[str]:
    """Whether the logged model has the metric too, of the same images and with the same value."""
    names = {prefix + each for prefix in PREFIXES for each in ({name, "loss"} if name == "log_loss" else {name})}
    same = [each for each in metrics if each.dataset_digest == evidence.dataset_digest and each.name in names]
    value = evidence.metrics.get(name, math.nan)
    if any(math.isclose(each.value, value, rel_tol=1e-6, abs_tol=1e-6) for each in same):
        return []
    found = ", ".join(f"{each.value:.6g}" for each in same) or "not there"
    return [f"{name} of the logged model on these images is {found}; the evidence says {value:.6g}"]


def overtaken(move: Move, evidence: Evidence) -> list[str]:
    """Whether the champion that it was compared with still is the one: compare and set."""
    measured = evidence.champion.version if evidence.champion else None
    if measured == move.champion:
        return []
    newest = move.past[-1] if move.past else None
    moved = f", since {newest.time}, moved by {newest.who}" if newest and newest.after == move.champion else ""
    return [f"it was measured against {shown(measured)}, but {shown(move.champion)} is @{move.alias} now{moved}"]
