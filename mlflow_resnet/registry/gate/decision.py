"""All that is known when an alias is to move, and whether it may. Pure: nothing is read from stores or files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mlflow.entities import Metric

from mlflow_resnet.evaluation.mcnemar import mcnemar
from mlflow_resnet.registry.alias_history import PROMOTE, ROLLBACK, HistoryEntry, champions, format_version
from mlflow_resnet.registry.evidence import (
    EVIDENCE_ROUNDING,
    Evidence,
    EvidenceError,
    MeasuredChampion,
    compute_drop,
    from_text,
    has_valid_signature,
)
from mlflow_resnet.registry.gate.rule import BY, NotWorse, Rule
from mlflow_resnet.registry.names import is_evidence_key

CLOCKS = timedelta(minutes=10)  # by which the clock of who measured may be ahead
EVIDENCE_PREFIXES = ("", "test_", "val_")  # of a metric's name on the logged model, by the part of the data


@dataclass(frozen=True)
class Proven:
    """The server's own facts about a version, from its logged model.

    Attributes:
        problems: why it is no version of a logged model that is ready; then the rest is empty.
        flavors, signature: of its MLmodel file, if a rule asks for them.
    """

    problems: tuple[str, ...] = ()
    model_id: str = ""
    model_sha256: str = ""
    metrics: tuple[Metric, ...] = ()
    flavors: tuple[str, ...] = ()
    signature: bool = False


@dataclass(frozen=True)
class Situation:
    """A requested move of an alias to a version.

    Attributes:
        tags: of the version.
        status: of the version.
        champion: the version that has the alias now.
        standing: what the server itself knows of that version; None if there is none.
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
    standing: Proven | None
    past: Sequence[HistoryEntry]
    user: str | None
    key: str
    now: datetime


@dataclass(frozen=True)
class Verdict:
    """The gaps that a rule finds, and the tag of the evidence that it judged.

    Attributes:
        is_overtaken: whether all that is wrong is that another version became champion meanwhile.
    """

    missing: tuple[str, ...]
    evidence: str | None = None
    is_overtaken: bool = False


def list_gate_moves(past: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """The entries of the history that the gate wrote, not those of clients."""
    return [entry for entry in past if entry.policy]


def is_rollback(situation: Situation) -> bool:
    """Whether the version was champion before this one, by evidence, and nobody moved the alias past the gate."""
    moves = list_gate_moves(situation.past)
    met_rules = {entry.after for entry in moves if entry.action in (PROMOTE, ROLLBACK)}
    return champions(moves)[-2:] == [situation.version, situation.champion] and situation.version in met_rules


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


# one measurement: whether it is of this version, true, fresh and good enough


def evidence_for(situation: Situation) -> tuple[list[Evidence], list[str]]:
    """Returns the evidence for this alias in the version's tags, and the problems of unreadable ones."""
    found, problems = [], []
    for name, text in sorted(situation.tags.items()):
        if not is_evidence_key(name, situation.alias):
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


def find_evidence_gaps(rule: Rule, situation: Situation, evidence: Evidence) -> list[str]:
    """Returns the gaps of one measurement."""
    known = {name: getattr(situation, name) for name in ("name", "version", "alias")}
    known |= {name: getattr(situation.proven, name) for name in ("model_id", "model_sha256")}
    missing = list_differences(known, evidence, "of the evidence")  # a copied tag is of another version
    missing += find_origin_gaps(rule, situation, evidence)
    missing += find_champion_gaps(rule, situation, evidence)
    missing += find_changed_champion(situation, evidence) or find_lost_alias(situation, evidence)
    for name, bounds in rule.require.metrics.items():
        value = evidence.metrics.get(name)
        if value is None:
            missing.append(f"{name} was not measured")
        elif bounds.min is not None and not value >= bounds.min:
            missing.append(f"{name} is {value:.6g}; expected at least {bounds.min:g}")
        elif bounds.max is not None and not value <= bounds.max:
            missing.append(f"{name} is {value:.6g}; expected at most {bounds.max:g}")
    if rule.not_worse and evidence.champion:
        missing += find_worse_metric(rule.not_worse, evidence, evidence.champion)
    return missing


def list_differences(known: Mapping[str, Any], measured: Evidence | MeasuredChampion, owner: str) -> list[str]:
    """Returns how what was measured differs from what the server knows."""
    return [
        f"{name} {owner} is {getattr(measured, name)}; expected {value}"
        for name, value in known.items()
        if getattr(measured, name) != value
    ]


def find_origin_gaps(rule: Rule, situation: Situation, evidence: Evidence) -> list[str]:
    """Checks that evidence is of the right images, fresh, signed and equal to the server's facts."""
    missing = []
    if evidence.images == 0:
        missing.append("it was measured on 0 images")
    if rule.require.dataset_digest and evidence.dataset_digest not in rule.require.dataset_digest:
        wanted = " or ".join(rule.require.dataset_digest)
        missing.append(f"it was measured on data with digest {evidence.dataset_digest}; expected {wanted}")
    age = situation.now - datetime.fromisoformat(evidence.measured_at)
    if age < -CLOCKS:
        missing.append(f"it was measured at {evidence.measured_at}, which is yet to come")
    if rule.require.max_age_days is not None and age > timedelta(days=rule.require.max_age_days):
        missing.append(f"it was measured at {evidence.measured_at}, more than {rule.require.max_age_days:g} days ago")
    if rule.signed and not (situation.key and has_valid_signature(evidence, situation.key)):
        missing.append("its signature is missing or was not made with the server's key")
    if rule.logged:
        names = [*rule.require.metrics, *([rule.not_worse.metric] if rule.not_worse else [])]
        for name in dict.fromkeys(names):
            missing += find_unlogged_metric(situation.proven, evidence, name, evidence.metrics, "logged model")
    return missing


def find_champion_gaps(rule: Rule, situation: Situation, evidence: Evidence) -> list[str]:
    """Checks that the champion in the evidence and its numbers are those that the server knows."""
    measured, known = evidence.champion, situation.standing
    if not (measured and known) or measured.version != situation.champion:
        return []  # `find_changed_champion` tells
    if not known.model_id:
        return [f"of the champion, {problem}" for problem in known.problems] if rule.not_worse else []
    facts = {"model_id": known.model_id, "model_sha256": known.model_sha256 or measured.model_sha256}
    missing = list_differences(facts, measured, "of the champion in the evidence")
    if rule.logged and rule.not_worse:
        metrics = measured.metrics
        missing += find_unlogged_metric(known, evidence, rule.not_worse.metric, metrics, "champion's logged model")
    return missing


def find_unlogged_metric(
    known: Proven, evidence: Evidence, name: str, metrics: Mapping[str, float], owner: str
) -> list[str]:
    """Checks that a logged model has the metric with the same images and value."""
    value, spellings = metrics.get(name, math.nan), [name, "loss"] if name == "log_loss" else [name]
    names = {prefix + each for prefix in EVIDENCE_PREFIXES for each in spellings}
    same = [each for each in known.metrics if each.dataset_digest == evidence.dataset_digest and each.key in names]
    if any(math.isclose(each.value, value, rel_tol=1e-6, abs_tol=1e-6) for each in same):
        return []
    found = ", ".join(f"{each.value:.6g}" for each in same) or "not there"
    return [f"{name} of the {owner} on these images is {found}; the evidence says {value:.6g}"]


def find_lost_alias(situation: Situation, evidence: Evidence) -> list[str]:
    """Checks that the version has not lost the alias since it was measured."""
    moves = list_gate_moves(situation.past)
    losses = [entry.time for entry in moves if entry.before == situation.version != entry.after]
    if not losses or datetime.fromisoformat(evidence.measured_at) >= datetime.fromisoformat(losses[-1]):
        return []
    return [f"it was measured at {evidence.measured_at}, before it lost @{situation.alias} at {losses[-1]}"]


def find_changed_champion(situation: Situation, evidence: Evidence) -> list[str]:
    """Checks that the champion in the evidence still is the champion (compare and set)."""
    measured = evidence.champion.version if evidence.champion else None
    if measured == situation.champion:
        return []
    newest = situation.past[-1] if situation.past else None
    moved = f", since {newest.time}, moved by {newest.who}" if newest and newest.after == situation.champion else ""
    now = f"{format_version(situation.champion)} is @{situation.alias} now{moved}"
    return [f"it was measured against {format_version(measured)}, but {now}"]


def find_worse_metric(limit: NotWorse, evidence: Evidence, champion: MeasuredChampion) -> list[str]:
    """Returns how a candidate is worse than the champion by more than allowed; empty if it is not."""
    name = limit.metric
    if limit.kind == "significant":
        return find_significant_loss(limit.limit, evidence, champion)
    if name not in evidence.metrics or name not in champion.metrics:
        return [f"{name} was not measured of both"]
    own, other = evidence.metrics[name], champion.metrics[name]
    lost = compute_drop(own, other, limit.is_lower_better)
    allowed = limit.limit * (abs(other) if limit.kind == "relative" else 1)
    if lost <= allowed + EVIDENCE_ROUNDING:
        return []
    return [f"{name} is {own:.6g}, of the champion {other:.6g}: worse by {lost:.6g}; allowed are {allowed:.6g}"]


def find_significant_loss(level: float, evidence: Evidence, champion: MeasuredChampion) -> list[str]:
    """Applies McNemar's exact test to the two counts."""
    lost, won = champion.only_champion_right, champion.only_candidate_right
    if lost + won > evidence.images:
        return [f"{lost} and {won} images are right of one only, of {evidence.images} in all"]
    p_value = mcnemar(lost, won)
    if lost <= won or p_value >= level:
        return []
    return [f"only the champion is right on {lost} images, only the candidate on {won}: p {p_value:.2g} < {level:g}"]
