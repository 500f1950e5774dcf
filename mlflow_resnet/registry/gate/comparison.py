"""Whether a candidate is worse than the champion, by the numbers of its evidence."""

from __future__ import annotations

from mlflow_resnet.registry.evidence import Evidence, MeasuredChampion
from mlflow_resnet.registry.gate.policy import NotWorse

ROUNDING = 1e-9  # 0.95 - 0.94 is a little more than 0.01


def worse(limit: NotWorse, evidence: Evidence, champion: MeasuredChampion) -> list[str]:
    """Whether the candidate is worse than the champion by more than allowed."""
    name = limit.metric
    if limit.kind == "significant":
        return significantly_worse(limit.limit, evidence, champion)
    if name not in evidence.metrics or name not in champion.metrics:
        return [f"{name} was not measured of both"]
    own, other = evidence.metrics[name], champion.metrics[name]
    drop = own - other if limit.lower_is_better else other - own
    allowed = limit.limit * (abs(other) if limit.kind == "relative" else 1)
    if drop <= allowed + ROUNDING:
        return []
    return [f"{name} is {own:.6g}, of the champion {other:.6g}: worse by {drop:.6g}; allowed are {allowed:.6g}"]


def significantly_worse(level: float, evidence: Evidence, champion: MeasuredChampion) -> list[str]:
    """McNemar's exact test, from the two counts."""
    lost, won = champion.only_champion_right, champion.only_candidate_right
    if lost + won > evidence.images:
        return [f"{lost} and {won} images are right of one only, of {evidence.images} in all"]
    p_value = mcnemar(lost, won)
    if lost <= won or p_value >= level:
        return []
    return [f"only the champion is right on {lost} images, only the candidate on {won}: p {p_value:.2g} < {level:g}"]


def mcnemar(first: int, second: int) -> float:
    """Two-sided and exact: how probable so uneven counts are, if both were equally good."""
    from scipy.special import bdtr  # when a rule asks for it

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5))) if first + second else 1.0
