"""Whether a candidate is worse than the champion, by the numbers of its evidence."""

from __future__ import annotations

from mlflow_resnet.evaluation.mcnemar import mcnemar
from mlflow_resnet.registry.evidence import EVIDENCE_ROUNDING, Evidence, MeasuredChampion, compute_drop
from mlflow_resnet.registry.gate.rule import NotWorse


def find_worse_metric(limit: NotWorse, evidence: Evidence, champion: MeasuredChampion) -> list[str]:
    """Returns how a candidate is worse than the champion by more than allowed; empty if it is not."""
    name = limit.metric
    if limit.kind == "significant":
        return find_significant_loss(limit.limit, evidence, champion)
    if name not in evidence.metrics or name not in champion.metrics:
        return [f"{name} was not measured of both"]
    own, other = evidence.metrics[name], champion.metrics[name]
    lost = compute_drop(own, other, limit.is_lower_better)
    allowed = limit.limit * (abs(other) if limit.kind == "relative" else 1)
    if lost <= allowed + EVIDENCE_ROUNDING:
        return []
    return [f"{name} is {own:.6g}, of the champion {other:.6g}: worse by {lost:.6g}; allowed are {allowed:.6g}"]


def find_significant_loss(level: float, evidence: Evidence, champion: MeasuredChampion) -> list[str]:
    """Applies McNemar's exact test to the two counts."""
    lost, won = champion.only_champion_right, champion.only_candidate_right
    if lost + won > evidence.images:
        return [f"{lost} and {won} images are right of one only, of {evidence.images} in all"]
    p_value = mcnemar(lost, won)
    if lost <= won or p_value >= level:
        return []
    return [f"only the champion is right on {lost} images, only the candidate on {won}: p {p_value:.2g} < {level:g}"]
