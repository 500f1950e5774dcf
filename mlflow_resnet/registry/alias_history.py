"""The history of an alias: an append-only list of tags of the registered model.

The gate store writes the entries in the server, in the same transaction as the alias; on a plain MLflow server
`promote` and `rollback` write them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from mlflow_resnet.io.untrusted import build_record
from mlflow_resnet.registry.names import format_entry_keys, parse_entry_key

PROMOTE, ROLLBACK, REMOVE, FORCE = "promote", "rollback", "remove", "force"


@dataclass(frozen=True)
class Move:
    """An alias from one version to another.

    Attributes:
        before, after: versions; None where the alias points to nothing.
        action: promote, rollback, remove or force.
        model_sha256: of the version `after`; empty if it is not known.
        evidence: the name of that version's tag that says why, or None.
    """

    name: str
    alias: str
    before: int | None
    after: int | None
    action: str
    model_sha256: str = ""
    evidence: str | None = None


@dataclass(frozen=True)
class HistoryEntry:
    """A `Move` as it was written down; `before` and `after` are `from` and `to` in the text.

    Attributes:
        sequence: 1, 2, ... without gaps, for each alias.
        time: UTC, in ISO format with its offset.
        policy: the first 12 hexadecimal digits of the sha256 of the policy's text; None if no gate wrote it.
    """

    sequence: int
    alias: str
    time: str
    who: str
    action: str
    before: int | None
    after: int | None
    model_sha256: str
    evidence: str | None
    policy: str | None

    @property
    def keys(self) -> tuple[str, str]:
        """The keys of the registered model's tag that holds this entry: today's and that of before."""
        return format_entry_keys(self.alias, self.sequence)

    @property
    def tag(self) -> str:
        return self.keys[0]

    def to_facts(self) -> dict[str, Any]:
        facts = dataclasses.asdict(self)
        facts["from"], facts["to"] = facts.pop("before"), facts.pop("after")
        return facts

    def to_text(self) -> str:
        return json.dumps(self.to_facts(), sort_keys=True)

    def __str__(self) -> str:
        moved = f"@{self.alias} from {format_version(self.before)} to {format_version(self.after)}"
        line = f"{self.time}  {self.action}  {moved}  by {self.who}"
        return "".join(letter if letter.isprintable() else "?" for letter in line)  # on a plain server anybody wrote it


def format_version(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def build_entry(facts: dict[str, Any]) -> HistoryEntry:
    """Undoes `to_facts`; AttributeError, KeyError, TypeError or ValueError for something else."""
    facts = dict(facts)
    if "weights_sha256" in facts:  # written when there was no digest of the whole model
        del facts["weights_sha256"]
        facts["model_sha256"] = ""
    facts["before"], facts["after"] = facts.pop("from"), facts.pop("to")
    entry = build_record(HistoryEntry, facts)
    if datetime.fromisoformat(entry.time).utcoffset() is None:
        raise ValueError("a time without an offset")
    return entry


def entries(tags: Mapping[str, str], alias: str | None = None) -> list[HistoryEntry]:
    """The entries among the tags of a registered model, oldest first; those of one alias, or of all.

    A tag that cannot be read is left out: on a plain server anybody may have written it. Of two with one number, that
    with today's key counts.
    """
    found: dict[tuple[str, int], HistoryEntry] = {}
    for key, text in tags.items():
        about = parse_entry_key(key)
        if about is not None and alias in (None, about):
            with suppress(AttributeError, KeyError, RecursionError, TypeError, ValueError):
                entry = build_entry(json.loads(text))
                if key == entry.tag:
                    found[entry.alias, entry.sequence] = entry
                elif key in entry.keys:
                    found.setdefault((entry.alias, entry.sequence), entry)
    return sort_entries(found.values(), by_time=alias is None)


def sort_entries(known: Iterable[HistoryEntry], by_time: bool) -> list[HistoryEntry]:
    """Returns entries oldest first: by their numbers, or those of several aliases by their times."""
    return sorted(known, key=lambda entry: (entry.time if by_time else "", entry.sequence))


def newest(tags: Mapping[str, str], alias: str) -> HistoryEntry | None:
    """The last entry of an alias."""
    return next(reversed(entries(tags, alias)), None)


def champions(known: Iterable[HistoryEntry]) -> list[int]:
    """Returns the champions up to the present one, which is last, without those that rollbacks undid.

    Args:
        known: entries of one alias, oldest first.
    """
    found: list[int] = []
    for entry in known:
        if entry.after is None:
            found = []
        elif entry.action == ROLLBACK and entry.after in found:
            del found[len(found) - found[::-1].index(entry.after) :]
        else:
            if entry.before is None:
                found = []  # removed by other means
            elif found[-1:] != [entry.before]:
                found.append(entry.before)  # moved by other means
            found.append(entry.after)
    return found


def next_entry(last: HistoryEntry | None, move: Move, who: str, policy: str | None = None) -> HistoryEntry:
    """The entry that follows `last`, at this moment."""
    facts = dataclasses.asdict(move)
    del facts["name"]  # the entry is a tag of that model
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return HistoryEntry(sequence=last.sequence + 1 if last else 1, time=now, who=who, policy=policy, **facts)
