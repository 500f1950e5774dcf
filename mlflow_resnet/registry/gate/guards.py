"""Forbidden writes, and the sentences that refuse them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from typing import NoReturn

from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_CONFLICT

from mlflow_resnet.registry.alias_history import HISTORY_TAG
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate.rule import BY, Rule
from mlflow_resnet.registry.gate.situation import Situation, Verdict
from mlflow_resnet.registry.patterns import fold_case

_logger = logging.getLogger(__name__)


def refuse(sentence: str, code: int = PERMISSION_DENIED) -> NoReturn:
    raise MlflowException(f"The gate refused: {sentence}.", error_code=code)


def log_dry_run(sentence: str) -> None:
    _logger.warning("dry run, would be refused: %s", sentence)


def forbid(rules: Sequence[Rule], sentence: str) -> None:
    """Refuses what none of these rules allows; if all of them are only tried, the log tells it and it may be done."""
    if any(rule.is_enforced for rule in rules):
        refuse(sentence)
    if rules:
        log_dry_run(sentence)


def forbid_removal(rules: Sequence[Rule], sentence: str) -> None:
    forbid([rule for rule in rules if not rule.allows_removal], sentence)


def forbid_unproven(situation: Situation, verdicts: Sequence[tuple[Rule, Verdict]]) -> None:
    """Refuses a move for all that is missing for the rules that are enforced.

    The code is 409 if all that is wrong is that another move came first, else 403.
    """
    refusing = [verdict for rule, verdict in verdicts if rule.is_enforced and verdict.missing]
    if refusing:
        uri, alias = shlex.quote(f"models:/{situation.name}/{situation.version}"), f" --alias {situation.alias}"
        command = f"mlflow-resnet promote --model-uri {uri} --image-dir <the data set>"
        command += alias * (situation.alias != "champion")
        is_overtaken = all(verdict.is_overtaken for verdict in refusing)
        code = RESOURCE_CONFLICT if is_overtaken else PERMISSION_DENIED
        refuse(f"{describe_gaps(situation, refusing)}. Run: {command}", code)


def describe_gaps(situation: Situation, verdicts: Sequence[Verdict]) -> str:
    """Tells all that the move misses, each once; empty if nothing is missing."""
    missing = dict.fromkeys(each for verdict in verdicts for each in verdict.missing)
    move = f"version {situation.version} of {situation.name} may not become @{situation.alias}"
    return f"{move}: {'; '.join(missing)}" if missing else ""


def is_approval(key: str, rules: Sequence[Rule]) -> bool:
    return any(rule.approval and fold_case(key) == fold_case(rule.approval.tag) for rule in rules)


def is_own(key: str, rules: Sequence[Rule], with_approval: bool = False) -> bool:
    """Returns whether only the gate writes this tag of a version; optionally approvals too."""
    is_by = fold_case(key).endswith(BY) and is_approval(fold_case(key).removesuffix(BY), rules)
    return is_gates(key) or is_by or (with_approval and is_approval(key, rules))


def is_gates(key: str) -> bool:
    """Returns whether a tag's name is one that only the gate writes."""
    return fold_case(key).startswith(GATE_TAG)


def is_history(key: str) -> bool:
    return fold_case(key).startswith(HISTORY_TAG)


def forbid_own_tag(key: str) -> None:
    """Refuses a tag of a registered model that only the gate writes."""
    if is_history(key):
        refuse(f"tag {key} is a part of the history, which only the gate writes")
    if is_gates(key):
        refuse(f"tag {key} is the gate's own; it may not be set")


def forbid_prompt_tag(rules: Sequence[Rule], key: str) -> None:
    """Refuses the tag of prompts: a model that called itself one would have no rules."""
    if fold_case(key) == IS_PROMPT_TAG_KEY:
        forbid(rules, f"tag {key} may not be changed, because aliases of this name are guarded")
