"""The moves of an alias."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_resnet.errors import presentable
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.history import HistoryOptions
from mlflow_resnet.registry import versions
from mlflow_resnet.registry.history import Entry, entries, shown
from mlflow_resnet.tracking.server import check_servers


def history(options: HistoryOptions) -> list[Entry]:
    """The moves of an alias, or of all of them, oldest first.

    Raises:
        InvalidModelError: if there is no such registered model.
    """
    check_servers(registry=True)
    return entries(versions.registered_model(options.name).tags, options.alias or None)


def summarize_history(result: Sequence[Entry], options: HistoryOptions) -> str:
    """A line for each entry of the history, and one where the alias was moved by other means in between."""
    lines, last = [], dict[str, int | None]()
    for entry in result:
        if entry.alias in last and entry.before != last[entry.alias]:
            lines.append(f"{'':24}  (by other means it came to {shown(entry.before)})")
        last[entry.alias] = entry.after
        lines.append(str(entry))
    return in_lines(lines) or presentable(f"no move of an alias of {options.name} was written down")
