"""What a write must not do, and the sentence with which it is refused."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import _PROMPT_SOURCE_PLACEHOLDERS, IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_CONFLICT
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

from mlflow_resnet.registry import evidence, history
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate.decision import BY, Move, Verdict
from mlflow_resnet.registry.gate.policy import Policy, Rule, folded

_logger = logging.getLogger(__name__)
OWN_TAGS = f"{GATE_TAG}."  # begins the names of the tags of versions that only the gate writes
Ruled = tuple[Rule, Verdict]


def refuse_always(sentence: str, code: int = PERMISSION_DENIED) -> NoReturn:
    raise MlflowException(f"The gate refused: {sentence}.", error_code=code)


def refuse(rules: Sequence[Rule], sentence: str) -> None:
    """Raises if any of the rules is enforced; otherwise the log tells what would have been refused."""
    if any(rule.is_enforced for rule in rules):
        refuse_always(sentence)
    if rules:
        _logger.warning("dry run, would be refused: %s", sentence)


def refuse_removal(rules: Sequence[Rule], sentence: str) -> None:
    refuse([rule for rule in rules if not rule.remove], sentence)


def refuse_move(move: Move, verdicts: Sequence[Ruled]) -> None:
    """Raises with everything that is missing: 403, or 409 if all that is wrong is that another move came first."""
    refusing = [verdict for rule, verdict in verdicts if rule.is_enforced and verdict.missing]
    if not refusing:
        return
    code = RESOURCE_CONFLICT if all(verdict.is_overtaken for verdict in refusing) else PERMISSION_DENIED
    refuse_always(f"{unproven(move, refusing)}. Run: {command(move)}", code)


def unproven(move: Move, refusing: Sequence[Verdict]) -> str:
    missing = dict.fromkeys(each for verdict in refusing for each in verdict.missing)
    return f"version {move.version} of {move.name} may not become @{move.alias}: {'; '.join(missing)}"


def command(move: Move) -> str:
    """What measures the version."""
    uri, alias = shlex.quote(f"models:/{move.name}/{move.version}"), f" --alias {move.alias}"
    return f"mlflow-resnet promote --model-uri {uri} --image-dir <the data set>{alias * (move.alias != 'champion')}"


def dry_run_text(move: Move, verdicts: Sequence[Ruled]) -> str:
    """What the rules that are only tried would have refused; empty if nothing."""
    refusing = [verdict for rule, verdict in verdicts if not rule.is_enforced and verdict.missing]
    if not refusing:
        return ""
    _logger.warning("dry run, would be refused: %s", sentence := unproven(move, refusing))
    return f"{move.now.isoformat(timespec='seconds')} would be refused: {sentence}"


def is_approval(key: str, rules: Sequence[Rule]) -> bool:
    return any(rule.approval and folded(key) == folded(rule.approval.tag) for rule in rules)


def is_own(key: str, rules: Sequence[Rule], with_approval: bool = False) -> bool:
    """Whether only the gate writes a tag of this name on a version, or, if wished, whether it is an approval."""
    is_by = folded(key).endswith(BY) and is_approval(folded(key).removesuffix(BY), rules)
    approves = with_approval and is_approval(key, rules)
    return bool(rules) and (folded(key).startswith(OWN_TAGS) or is_by or approves)


def is_evidence(key: str) -> bool:
    return folded(key).startswith(evidence.TAG)


def is_history(key: str) -> bool:
    return folded(key).startswith(history.TAG)


def refuse_history(key: str) -> None:
    if is_history(key):
        refuse_always(f"tag {key} is a part of the history, which only the gate writes")


def is_clients_history(tag: RegisteredModelTag, known: Mapping[str, str]) -> bool:
    """Whether it is a new entry of the history that does not say that a gate decided."""
    found = history.entries({tag.key: tag.value})
    return bool(found) and not found[0].policy and tag.key not in known


def refuse_prompt_tag(rules: Sequence[Rule], key: str) -> None:
    """A model that called itself a prompt would have no rules."""
    if folded(key) == IS_PROMPT_TAG_KEY:
        refuse(rules, f"tag {key} may not be changed, because aliases of this name are guarded")


def is_prompt(model: SqlRegisteredModel) -> bool:
    """Whether it calls itself a prompt and has no version with files."""
    tags = {tag.key: tag.value for tag in model.registered_model_tags}
    return tags.get(IS_PROMPT_TAG_KEY) == "true" and all(
        has_no_files(each) for each in model.model_versions if each.current_stage != STAGE_DELETED_INTERNAL
    )


def has_no_files(version: Any) -> bool:
    """Whether it is a prompt's version, which can be neither loaded nor served."""
    return version.source in _PROMPT_SOURCE_PLACEHOLDERS


def held(policy: Policy, model: SqlRegisteredModel, *names: str) -> list[tuple[str, int, list[Rule]]]:
    """The guarded aliases that point to a version, with that version and their rules, by any of the names."""
    found = []
    for row in model.registered_model_aliases:
        rules = list(dict.fromkeys(rule for name in names for rule in policy.guarding(name, row.alias)))
        if rules:
            found.append((row.alias, row.version, rules))
    return found
