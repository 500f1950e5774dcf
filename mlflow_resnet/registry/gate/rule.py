"""One rule: what a version of certain models must have before a certain alias may point to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_resnet.registry.patterns import fits

ENFORCE, DRY_RUN = "enforce", "dry-run"


@dataclass(frozen=True)
class Bounds:
    """A metric's least and greatest value, both allowed."""

    min: float | None
    max: float | None


@dataclass(frozen=True)
class NotWorse:
    """How much worse than the champion a candidate may be.

    Attributes:
        kind: by (in the metric's unit), relative (a fraction of the champion's) or significant (the p value of
            McNemar's test below which a worse candidate is refused).
    """

    metric: str
    kind: str
    limit: float
    lower_is_better: bool


@dataclass(frozen=True)
class Approval:
    tag: str
    by_another_user: bool


@dataclass(frozen=True, eq=False)
class Rule:
    """What a version of certain models must have before a certain alias may point to it."""

    models: str
    alias: str
    mode: str
    metrics: Mapping[str, Bounds]
    dataset_digests: tuple[str, ...]
    tags: Mapping[str, str | None]
    signature: bool
    flavor: str | None
    max_age_days: float | None
    not_worse: NotWorse | None
    approval: Approval | None
    signed: bool
    logged: bool
    rollback: bool
    remove: bool

    @property
    def is_enforced(self) -> bool:
        return self.mode == ENFORCE

    def covers(self, name: str) -> bool:
        return fits(name, self.models)

    def guards(self, name: str, alias: str) -> bool:
        return self.covers(name) and fits(alias, self.alias)
