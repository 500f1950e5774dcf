"""The options of `champion`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import Options, option


@dataclass(frozen=True, kw_only=True)
class ChampionOptions(Options):
    """Print which version is champion, since when, and what it was measured to be."""

    examples = "mlflow-resnet champion --name flowers"

    name: str = option("registered model, such as digits")
    alias: str = option("alias of the version", "champion")
