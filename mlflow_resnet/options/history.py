"""The options of `history`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import Options, option


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(Options):
    """Print who moved an alias, when, from where and to where."""

    examples = "mlflow-resnet history --name flowers"

    name: str = option("registered model, such as digits")
    alias: str = option("only this one; empty: all", "")
