"""Moves an alias back to the champion before."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from mlflow_resnet.errors import InvalidModelError, PromotionRefusedError, presentable
from mlflow_resnet.model.storage import MODEL_SHA256
from mlflow_resnet.options.rollback import RollbackOptions
from mlflow_resnet.registry import aliases, versions
from mlflow_resnet.registry.abilities import require_aliases
from mlflow_resnet.registry.alias_history import ROLLBACK, HistoryEntry, Move, champions, format_version
from mlflow_resnet.registry.binding import bind_version
from mlflow_resnet.registry.history_archive import list_moves
from mlflow_resnet.registry.run_texts import LostTextError
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.tracking.server import check_servers


def rollback(options: RollbackOptions) -> Move:
    """Points the alias to the champion before the present one.

    Raises:
        PromotionRefusedError: if the history knows of none, the version is gone, a gate refuses, or somebody else moves
            the alias meanwhile.
    """
    with end_attached_run():
        check_servers(registry=True)
        require_aliases("rollback", options.name, options.alias)
        model = versions.fetch_registered_model(options.name)
        now = aliases.version_with(model, options.alias)
        path = champions(fetch_history(options, model.tags))
        if now is None or now not in path:
            raise explain_no_way_back(options, f"the history does not know {format_version(now)}, which has it")
        earlier = path[: len(path) - 1 - path[::-1].index(now)]
        if not earlier:
            raise explain_no_way_back(options, f"there was no champion before {format_version(now)}")
        before = f"version {earlier[-1]}, the champion before,"
        try:
            version = versions.resolve(f"models:/{options.name}/{earlier[-1]}")
        except InvalidModelError:
            raise explain_no_way_back(options, f"{before} was deleted") from None
        if version.status != "READY":
            raise explain_no_way_back(options, f"{before} is {version.status}, not READY")
        digest = bind_version(version).params.get(MODEL_SHA256, "")
        move = Move(options.name, options.alias, now, earlier[-1], ROLLBACK, digest)
        aliases.move_alias(move)
    return move


def fetch_history(options: RollbackOptions, tags: Mapping[str, str]) -> list[HistoryEntry]:
    """Returns all moves of the alias; without the oldest ones, a champion that was bad could look like a good one."""
    try:
        moves = list_moves(tags, options.alias)
    except LostTextError as error:
        raise explain_no_way_back(options, f"its older history, {error.message}") from None
    if moves and moves[0].sequence > 1:
        raise explain_no_way_back(options, f"of its history all before move {moves[0].sequence} is gone")
    return moves


def explain_no_way_back(options: RollbackOptions, problem: str) -> PromotionRefusedError:
    return PromotionRefusedError(
        f"@{options.alias} of {options.name} stays where it is: {problem}. "
        f"`mlflow-resnet history --name {shlex.quote(options.name)}` shows what happened; promote a version instead."
    )


def summarize_rollback(result: Move, options: RollbackOptions) -> str:
    now = f"models:/{result.name}/{result.after}"
    return presentable(f"@{result.alias} now points to {now} again, no more to version {result.before}")
