"""The moves of an alias."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_resnet.io.console import say
from mlflow_resnet.io.text.characters import in_lines, presentable
from mlflow_resnet.options.history import HistoryOptions
from mlflow_resnet.registry import versions
from mlflow_resnet.registry.alias_history import HistoryEntry, entries, format_version
from mlflow_resnet.registry.history_archive import list_moves
from mlflow_resnet.registry.run_texts import LostTextError
from mlflow_resnet.tracking.server import check_servers


def history(options: HistoryOptions) -> list[HistoryEntry]:
    """The moves of an alias, or of all of them, oldest first.

    Raises:
        InvalidModelError: if there is no such registered model.
    """
    check_servers(registry=True)
    tags = versions.fetch_registered_model(options.name).tags
    try:
        return list_moves(tags, options.alias or None)
    except LostTextError as error:
        say(f"the older history is not shown: {error.message}")
        return entries(tags, options.alias or None)


def summarize_history(result: Sequence[HistoryEntry], options: HistoryOptions) -> str:
    """Formats the history, one line per entry, with a line where the alias was moved by other means."""
    lines, last = [], dict[str, int | None]()
    for entry in result:
        if entry.alias in last and entry.before != last[entry.alias]:
            lines.append(f"{'':24}  (by other means it came to {format_version(entry.before)})")
        last[entry.alias] = entry.after
        lines.append(str(entry))
    return in_lines(lines) or presentable(f"no move of an alias of {options.name} was written down")
