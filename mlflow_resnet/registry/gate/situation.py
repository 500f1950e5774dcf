"""Everything that a decision about a move depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mlflow.entities import Metric

from mlflow_resnet.registry.alias_history import PROMOTE, ROLLBACK, HistoryEntry, champions


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
