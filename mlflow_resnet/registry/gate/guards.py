"""Forbidden writes, and the sentences that refuse them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_CONFLICT

from mlflow_resnet.registry import alias_history, evidence
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate.rule import BY, Rule
from mlflow_resnet.registry.gate.situation import Situation, Verdict
from mlflow_resnet.registry.patterns import fold_case

_logger = logging.getLogger(__name__)
OWN_TAGS = f"{GATE_TAG}."  # begins the names of the tags of versions that only the gate writes
Ruled = tuple[Rule, Verdict]


@dataclass(frozen=True)
class Refusal:
    """Why a write may not be done.

    Attributes:
        is_enforced: otherwise only the log tells what would have been refused.
    """

    sentence: str
    code: int = PERMISSION_DENIED
    is_enforced: bool = True


def enforce(refusal: Refusal | None) -> None:
    """Raises MlflowException if there is a refusal."""
    if refusal and refusal.is_enforced:
        raise MlflowException(f"The gate refused: {refusal.sentence}.", error_code=refusal.code)
    if refusal:
        _logger.warning("dry run, would be refused: %s", refusal.sentence)


def forbid(rules: Sequence[Rule], sentence: str) -> Refusal | None:
    """Forbids what none of these rules allows, and only for a try if none of them is enforced."""
    return Refusal(sentence, is_enforced=any(rule.is_enforced for rule in rules)) if rules else None


def forbid_removal(rules: Sequence[Rule], sentence: str) -> Refusal | None:
    return forbid([rule for rule in rules if not rule.allows_removal], sentence)


def forbid_move(situation: Situation, verdicts: Sequence[Ruled], is_enforced: bool) -> Refusal | None:
    """Tells all that is missing for the rules that are enforced, or for the others.

    The code is 409 if all that is wrong is that another move came first, else 403.
    """
    refusing = [verdict for rule, verdict in verdicts if rule.is_enforced == is_enforced and verdict.missing]
    if not refusing:
        return None
    missing = dict.fromkeys(each for verdict in refusing for each in verdict.missing)
    sentence = (
        f"version {situation.version} of {situation.name} may not become @{situation.alias}: {'; '.join(missing)}"
    )
    if is_enforced:
        sentence += f". Run: {build_measure_command(situation)}"
    code = RESOURCE_CONFLICT if all(verdict.is_overtaken for verdict in refusing) else PERMISSION_DENIED
    return Refusal(sentence, code, is_enforced)


def build_measure_command(situation: Situation) -> str:
    """The command that measures the version."""
    uri, alias = shlex.quote(f"models:/{situation.name}/{situation.version}"), f" --alias {situation.alias}"
    return (
        f"mlflow-resnet promote --model-uri {uri} --image-dir <the data set>{alias * (situation.alias != 'champion')}"
    )


def is_approval(key: str, rules: Sequence[Rule]) -> bool:
    return any(rule.approval and fold_case(key) == fold_case(rule.approval.tag) for rule in rules)


def is_own(key: str, rules: Sequence[Rule], with_approval: bool = False) -> bool:
    """Returns whether only the gate writes this tag of a version; optionally approvals too."""
    is_by = fold_case(key).endswith(BY) and is_approval(fold_case(key).removesuffix(BY), rules)
    approves = with_approval and is_approval(key, rules)
    return is_gates(key) or is_by or approves


def is_gates(key: str) -> bool:
    """Returns whether a tag's name is one that only the gate writes."""
    return fold_case(key).startswith(GATE_TAG)


def is_evidence(key: str) -> bool:
    return fold_case(key).startswith(evidence.EVIDENCE_TAG)


def is_history(key: str) -> bool:
    return fold_case(key).startswith(alias_history.HISTORY_TAG)


def forbid_own_tag(key: str) -> Refusal | None:
    """Forbids a tag of a registered model that only the gate writes."""
    if is_history(key):
        return Refusal(f"tag {key} is a part of the history, which only the gate writes")
    return Refusal(f"tag {key} is the gate's own; it may not be set") if is_gates(key) else None


def is_clients_entry(tag: RegisteredModelTag) -> bool:
    """Returns whether a tag is an entry of the history without a decision of the gate."""
    found = alias_history.entries({tag.key: tag.value})
    return bool(found) and not found[0].policy


def forbid_prompt_tag(rules: Sequence[Rule], key: str) -> Refusal | None:
    """Forbids the tag of prompts: a model that called itself one would have no rules."""
    if fold_case(key) != IS_PROMPT_TAG_KEY:
        return None
    return forbid(rules, f"tag {key} may not be changed, because aliases of this name are guarded")
