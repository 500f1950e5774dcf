"""Decides whether a candidate replaces the champion, and records the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_resnet.errors import InvalidOptionsError, PromotionRefusedError, join_names
from mlflow_resnet.options.metric_names import LOWER_IS_BETTER
from mlflow_resnet.registry.alias_history import PROMOTE, Move
from mlflow_resnet.registry.aliases import move_alias
from mlflow_resnet.registry.evidence import (
    EVIDENCE_ROUNDING,
    Evidence,
    EvidenceError,
    compute_drop,
    from_older_text,
    to_text,
)
from mlflow_resnet.registry.run_texts import MOST_TAG_CHARACTERS, RUN_SCHEME, LostTextError, load_text, save_text

PROMOTION_KEYS = "mlflow_resnet_promotion_", "mlflow_resnet.promotion."  # how keys begin: today's, those of before


@dataclass(frozen=True)
class Comparison:
    """Candidate and champion, evaluated on the same images through the same predict path.

    Attributes:
        candidate: the version as it was before it was measured.
        metric: the one to compare.
        evidence: what was measured of both.
        is_guarded: whether a gate in the server decides about the alias.
    """

    candidate: ModelVersion
    metric: str
    evidence: Evidence
    is_guarded: bool = False

    @property
    def champion(self) -> int | None:
        """The version that the candidate was compared with, if there was one."""
        return self.evidence.champion.version if self.evidence.champion else None

    @property
    def candidate_value(self) -> float:
        return pick_metric(self.evidence.metrics, self.metric)

    @property
    def champion_value(self) -> float | None:
        return pick_metric(self.evidence.champion.metrics, self.metric) if self.evidence.champion else None

    @property
    def drop(self) -> float:
        """By how much the candidate is worse than the champion, in the metric's unit; negative if it is better."""
        if self.champion_value is None:
            return 0.0
        return compute_drop(self.candidate_value, self.champion_value, self.metric in LOWER_IS_BETTER)

    def __str__(self) -> str:
        measured = self.evidence
        start = f"on {measured.images} images, {self.metric} of {measured.name} version {measured.version} is"
        start += f" {self.candidate_value:.4f}"
        if self.champion is None:
            return f"{start}; there is no champion yet"
        return f"{start}, of the champion, version {self.champion}, {self.champion_value:.4f}"


def pick_metric(metrics: Mapping[str, float], metric: str) -> float:
    """The chosen metric.

    Raises:
        InvalidOptionsError: if it does not exist for this number of classes (top-5 needs more than five).
    """
    if metric not in metrics:
        known = join_names(metrics)
        raise InvalidOptionsError([f"metric is {metric!r}, which these classes do not have; choose {known}"])
    return metrics[metric]


def promote_candidate(comparison: Comparison, max_drop: float) -> None:
    """Moves the alias of the evidence to the candidate.

    The tag with the result is "pending" until all is done, so a process that is killed leaves nothing false behind, and
    the same call again completes it.

    Raises:
        PromotionRefusedError: if the candidate is worse by more than `max_drop`, the gate refuses, or somebody else
            moved the alias meanwhile; the alias stays where it was.
    """
    candidate, evidence, before = comparison.candidate, comparison.evidence, comparison.champion
    if before != evidence.version:
        write_down(comparison)
    elif read_tag(candidate, "alias") == evidence.alias:  # the end of what an earlier call began
        before = int(read_tag(candidate, "champion_version") or 0) or None
    else:
        return
    try:
        if not comparison.drop <= max_drop + EVIDENCE_ROUNDING:  # a NaN is refused too
            raise PromotionRefusedError(
                f"not promoted: {comparison}. The drop of {comparison.drop:.4f} is more than --max-drop {max_drop:g}; "
                f"@{evidence.alias} stays where it is."
            )
        digest, reason = evidence.model_sha256, evidence.tag
        move_alias(Move(candidate.name, evidence.alias, before, evidence.version, PROMOTE, digest, reason))
    except PromotionRefusedError:
        write_tag(candidate, "result", "refused")
        raise
    write_tag(candidate, "result", "promoted")


def write_down(comparison: Comparison) -> None:
    """Tags the candidate with the comparison, for people and as evidence for a gate."""
    evidence, has_champion = comparison.evidence, comparison.champion is not None
    write_tag(comparison.candidate, "result", "pending")
    write_evidence(comparison)
    facts = {
        "metric": comparison.metric,
        "value": comparison.candidate_value,
        "champion_version": comparison.champion if has_champion else "",
        "champion_value": comparison.champion_value if has_champion else "",
        "images": evidence.images,
        "dataset_digest": evidence.dataset_digest,
        "alias": evidence.alias,  # the last: then all are there
    }
    for name, value in facts.items():
        write_tag(comparison.candidate, name, value)


def write_evidence(comparison: Comparison) -> None:
    """Tags the candidate with its evidence. A gate reads no artifacts, and its server takes long texts."""
    candidate, text = comparison.candidate, to_text(comparison.evidence)
    if len(text) > MOST_TAG_CHARACTERS and candidate.run_id and not comparison.is_guarded:
        text = save_text(candidate.run_id, text)
    MlflowClient().set_model_version_tag(candidate.name, candidate.version, comparison.evidence.tag, text)


def read_evidence(version: ModelVersion, key: str) -> Evidence | None:
    """The evidence in a tag of a version, to show it; None if there is none that can be read."""
    text = version.tags.get(key, "")
    with suppress(EvidenceError, LostTextError):
        return from_older_text(load_text(text) if text.startswith(RUN_SCHEME) else text) if text else None
    return None


def write_tag(version: ModelVersion, name: str, value: object) -> None:
    MlflowClient().set_model_version_tag(version.name, version.version, PROMOTION_KEYS[0] + name, str(value))


def read_tag(version: ModelVersion, name: str) -> str:
    """Returns a fact of the last comparison; empty if there was none."""
    return next((version.tags[key + name] for key in PROMOTION_KEYS if key + name in version.tags), "")
