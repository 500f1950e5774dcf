"""Whether a candidate may take the champion's place, and what is written down about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_resnet.errors import InvalidOptionsError, PromotionRefusedError, listed
from mlflow_resnet.evaluation.names import LOWER_IS_BETTER
from mlflow_resnet.registry.versions import move_alias

TAG = "mlflow_resnet.promotion."
ROUNDING = 1e-9  # 0.95 - 0.94 is a little more than 0.01


@dataclass(frozen=True)
class Comparison:
    """Candidate and champion, measured on the same images through the same predict path.

    Attributes:
        champion: None if the alias is not set yet.
        champion_value: None likewise.
    """

    candidate: ModelVersion
    champion: ModelVersion | None
    metric: str
    candidate_value: float
    champion_value: float | None
    images: int
    digest: str

    @property
    def drop(self) -> float:
        """By how much the candidate is worse than the champion, in the metric's unit; negative if it is better."""
        if self.champion_value is None:
            return 0.0
        difference = self.champion_value - self.candidate_value
        return -difference if self.metric in LOWER_IS_BETTER else difference

    def __str__(self) -> str:
        candidate, champion = self.candidate, self.champion
        start = f"on {self.images} images, {self.metric} of {candidate.name} version {candidate.version} is"
        if champion is None:
            return f"{start} {self.candidate_value:.4f}; there is no champion yet"
        end = f"of the champion, version {champion.version}, {self.champion_value:.4f}"
        return f"{start} {self.candidate_value:.4f}, {end}"


def value_of(metrics: Mapping[str, float], metric: str) -> float:
    """The chosen metric.

    Raises:
        InvalidOptionsError: if it does not exist for this number of classes (top-5 needs more than five).
    """
    if metric not in metrics:
        raise InvalidOptionsError([f"metric is {metric!r}, which these classes do not have; choose {listed(metrics)}"])
    return metrics[metric]


def promote(comparison: Comparison, alias: str, max_drop: float) -> None:
    """Tags the candidate with what was measured and moves the alias to it.

    The tag `result` is "pending" until all is done, so a process that is killed leaves nothing false behind, and the
    same call again completes it.

    Raises:
        PromotionRefusedError: if the candidate is worse by more than `max_drop`, or somebody else moved the alias
            meanwhile; the alias stays where it was.
    """
    if not made_champion(comparison, alias):
        tag(comparison.candidate, {"result": "pending"})
        tag(comparison.candidate, facts_of(comparison) | {"alias": alias})  # the alias last: then all are there
    try:
        if not comparison.drop <= max_drop + ROUNDING:  # a NaN is refused too
            raise PromotionRefusedError(
                f"not promoted: {comparison}. The drop of {comparison.drop:.4f} is more than --max-drop {max_drop:g}; "
                f"@{alias} stays where it is."
            )
        move_alias(comparison.candidate, alias, comparison.champion)
    except PromotionRefusedError:
        tag(comparison.candidate, {"result": "refused"})
        raise
    tag(comparison.candidate, {"result": "promoted"})


def made_champion(comparison: Comparison, alias: str) -> bool:
    """Whether the candidate has the alias already and its tags say why, which a comparison with itself does not."""
    candidate, champion = comparison.candidate, comparison.champion
    is_champion = champion is not None and str(champion.version) == str(candidate.version)
    return is_champion and candidate.tags.get(TAG + "alias") == alias


def facts_of(comparison: Comparison) -> dict[str, object]:
    """The comparison as tags."""
    champion = comparison.champion
    return {
        "metric": comparison.metric,
        "value": comparison.candidate_value,
        "champion_version": champion.version if champion else "",
        "champion_value": comparison.champion_value if champion else "",
        "images": comparison.images,
        "dataset_digest": comparison.digest,
    }


def tag(version: ModelVersion, facts: Mapping[str, object]) -> None:
    """Writes facts on a version, one after the other."""
    for name, value in facts.items():
        MlflowClient().set_model_version_tag(version.name, version.version, TAG + name, str(value))
