"""The older entries of a history, for which a model's tags have no room.

They are one text, an artifact of the run of a version that was promoted, and a tag of the model names it. A gate keeps
the whole history of its aliases in tags, and lets no client take entries away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from mlflow_resnet.io.untrusted import parse_json
from mlflow_resnet.registry.alias_history import HistoryEntry, build_entry, entries, sort_entries
from mlflow_resnet.registry.names import format_older_key
from mlflow_resnet.registry.run_texts import RUN_SCHEME, LostTextError, load_text, save_text

MOST_ENTRIES = 20  # in the tags of a model, of which Unity Catalog takes 50
LEAST_ENTRIES = 2  # of one alias, however many the others have


def list_moves(tags: Mapping[str, str], alias: str | None = None) -> list[HistoryEntry]:
    """All entries of one alias, or of all, oldest first, in tags and artifacts.

    Raises:
        LostTextError: if an artifact is gone or was changed.
    """
    known = entries(tags, alias)
    found = {(entry.alias, entry.sequence): entry for entry in known}
    for about in {entry.alias for entry in known}:
        found |= {(about, entry.sequence): entry for entry in load_older(tags, about)}
    return sort_entries(found.values(), by_time=alias is None)


def load_older(tags: Mapping[str, str], alias: str) -> list[HistoryEntry]:
    """The entries of an alias in the artifact that a tag names; none if there is no such tag."""
    uri = tags.get(format_older_key(alias), "")
    if not uri.startswith(RUN_SCHEME):
        return []
    text = load_text(uri)
    try:
        found = [build_entry(facts) for facts in parse_json(text)]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise LostTextError(uri, "is no history") from None
    if any(entry.alias != alias for entry in found):
        raise LostTextError(uri, f"is not the history of @{alias}")
    return found


def find_surplus(tags: Mapping[str, str], alias: str) -> Sequence[HistoryEntry]:
    """Returns the entries of an alias that are to leave the tags before one more comes; mostly none."""
    own = entries(tags, alias)
    room = max(LEAST_ENTRIES, MOST_ENTRIES - len(entries(tags)) + len(own))
    return own[: -(room // 2)] if len(own) >= room else []


def move_older(client: MlflowClient, model: RegisteredModel, alias: str, version: int) -> None:
    """Moves the surplus into an artifact of the run of a version. Raises any error before a tag is taken away."""
    surplus, key = find_surplus(model.tags, alias), format_older_key(alias)
    run_id = client.get_model_version(model.name, str(version)).run_id if surplus else ""
    if not run_id:
        return
    client.set_registered_model_tag(model.name, key, model.tags.get(key, "none"))  # which a gate refuses
    older = {entry.sequence: entry for entry in (*load_older(model.tags, alias), *surplus)}
    text = json.dumps([older[number].to_facts() for number in sorted(older)], sort_keys=True)
    client.set_registered_model_tag(model.name, key, save_text(run_id, text))
    for entry in surplus:
        for each in model.tags.keys() & set(entry.keys):
            client.delete_registered_model_tag(model.name, each)
