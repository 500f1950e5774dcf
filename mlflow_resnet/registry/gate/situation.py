"""What is known when an alias is to move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mlflow_resnet.registry.history import PROMOTE, ROLLBACK, Entry, champions


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
class Situation:
    """An alias that somebody wants to point to a version.

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


def moves_of_the_gate(past: Sequence[Entry]) -> list[Entry]:
    """Those entries of the history that the gate wrote; others are what clients say."""
    return [entry for entry in past if entry.policy]


def is_rollback(situation: Situation) -> bool:
    """Whether the version was champion before this one, by evidence, and nobody moved the alias past the gate."""
    moves = moves_of_the_gate(situation.past)
    met_rules = {entry.after for entry in moves if entry.action in (PROMOTE, ROLLBACK)}
    return champions(moves)[-2:] == [situation.version, situation.champion] and situation.version in met_rules
