"""What a write must not do, and the sentence with which it is refused."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Sequence
from typing import NoReturn

from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_CONFLICT

from mlflow_resnet.registry import evidence, history
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate.decision import BY
from mlflow_resnet.registry.gate.rule import Rule
from mlflow_resnet.registry.gate.situation import Move, Verdict
from mlflow_resnet.registry.patterns import folded

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
    refuse([rule for rule in rules if not rule.allows_removal], sentence)


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
    return is_gates(key) or is_by or approves


def is_gates(key: str) -> bool:
    """Whether the name of a tag, of a model or of a version, says that the gate wrote it."""
    return folded(key).startswith(GATE_TAG)


def is_evidence(key: str) -> bool:
    return folded(key).startswith(evidence.TAG)


def is_history(key: str) -> bool:
    return folded(key).startswith(history.TAG)


def refuse_own_tags(keys: Iterable[str]) -> None:
    """Raises if a tag of a registered model is one that only the gate writes."""
    for key in keys:
        if is_history(key):
            refuse_always(f"tag {key} is a part of the history, which only the gate writes")
        if is_gates(key):
            refuse_always(f"tag {key} is the gate's own; it may not be set")


def is_clients_entry(tag: RegisteredModelTag) -> bool:
    """Whether it is an entry of the history that does not say that a gate decided."""
    found = history.entries({tag.key: tag.value})
    return bool(found) and not found[0].policy


def refuse_prompt_tag(rules: Sequence[Rule], key: str) -> None:
    """A model that called itself a prompt would have no rules."""
    if folded(key) == IS_PROMPT_TAG_KEY:
        refuse(rules, f"tag {key} may not be changed, because aliases of this name are guarded")
