"""The options of `rollback`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import ALIAS_TO_MOVE, Options, find_missing_alias, model_name_problems, option


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(Options):
    """Point the champion alias to the champion before. Exits with 3 if there is none."""

    examples = "mlflow-resnet rollback --name flowers"

    name: str = option("registered model, such as digits")
    alias: str = option(ALIAS_TO_MOVE, "champion")

    def combinations(self) -> list[str]:
        return model_name_problems(self.name) + find_missing_alias(self.alias)
