"""MLflow's own SQL store with the gate before its writes. Reads, and models without rules, are MLflow's alone."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, NoReturn

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.prompt.registry_utils import has_prompt_tag
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_CONFLICT
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from mlflow_resnet.mlflow_seams import get_all_tags
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.alias_history import Move
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.evidence import read_signing_key
from mlflow_resnet.registry.gate.decision import Situation, Verdict, is_rollback, judge
from mlflow_resnet.registry.gate.locked_store import LockedStore, is_of_files
from mlflow_resnet.registry.gate.policy import Policy, PolicyFile
from mlflow_resnet.registry.gate.rule import BY, Rule
from mlflow_resnet.registry.gate.server_facts import Description, describe_model, find_request_user, prove_version, who
from mlflow_resnet.registry.names import fold_case, is_evidence_key, is_history_key, parse_entry_key

_logger = logging.getLogger(__name__)


class GateStore(LockedStore):
    """A registry whose aliases move only as the rules allow, and whose versions and models keep what the rules saw."""

    def __init__(self, db_uri: str, read_db_uri: str | None, policy: PolicyFile, tracking_uri: str | None) -> None:
        super().__init__(db_uri, read_db_uri)
        self.policy_file, self.tracking_uri = policy, tracking_uri

    @property
    def policy(self) -> Policy:
        """The current rules, read once per write so that one policy judges it."""
        return self.policy_file.current()

    # aliases: who may move them, and what is written down about it

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        asking = (rule.require for rule in self.policy.find_alias_rules(name, alias))
        is_asked = any(require.flavor or require.signature for require in asking)  # fetched before the lock: it is slow
        description = describe_model(self, name, version, self.tracking_uri) if is_asked else None
        with self.transaction():
            policy = self.policy
            rules = policy.find_alias_rules(name, alias)
            if not rules or self.is_for_prompts(name, version):
                return super().set_registered_model_alias(name, alias, version)
            situation = self.read_situation(name, alias, version, description)
            if situation.champion == situation.version:
                return None  # told again, after an answer that was lost
            verdicts = judge(rules, situation)
            forbid_unproven(situation, verdicts)
            super().set_registered_model_alias(name, alias, version)
            self.note_move(policy, situation, verdicts)
        return None

    def is_for_prompts(self, name: str, version: Any) -> bool:
        """Whether the version is a prompt's, and so is the model."""
        return not self.has_files(name, int(self.get_model_version(name, version).version)) and self.is_prompt(name)

    def read_situation(self, name: str, alias: str, version: Any, description: Description | None) -> Situation:
        """All that the decision depends on, read under the lock."""
        candidate, (alias, champion) = self.get_model_version(name, version), self.find_held(name, alias)
        number, model = int(candidate.version), self.find_row(name)
        standing = None if champion is None else prove_version(self, name, champion, self.tracking_uri)
        return Situation(
            name=str(model.name),
            alias=alias,
            version=number,
            tags=dict(candidate.tags),
            status=candidate.status,
            proven=prove_version(self, name, number, self.tracking_uri, description),
            champion=champion,
            standing=standing,
            past=self.list_past(name, alias),
            user=find_request_user(),
            key=read_signing_key(),
            now=datetime.now(timezone.utc),
        )

    def note_move(self, policy: Policy, situation: Situation, verdicts: Sequence[tuple[Rule, Verdict]]) -> None:
        """Writes the history's entry, and tags the version with what dry-run rules would have refused."""
        back = is_rollback(situation) and any(rule.allows_rollback for rule, _ in verdicts)
        action = alias_history.ROLLBACK if back else alias_history.PROMOTE
        if any(verdict.missing for _, verdict in verdicts) and not any(rule.is_enforced for rule, _ in verdicts):
            action = alias_history.FORCE  # it missed rules, all of which are only tried
        used = [verdict.evidence for _, verdict in verdicts if verdict.evidence and action == alias_history.PROMOTE]
        digest, reason = situation.proven.model_sha256, used[0] if used else None
        name, alias, version = situation.name, situation.alias, situation.version
        move = Move(name, alias, situation.champion, version, action, digest, reason)
        self.append(move, who(), policy.digest)
        if sentence := describe_gaps(situation, [each for rule, each in verdicts if not rule.is_enforced]):
            log_dry_run(sentence)
            text = f"{situation.now.isoformat(timespec='seconds')} would be refused: {sentence}"
            super().set_model_version_tag(name, version, ModelVersionTag(f"{GATE_TAG}.dry_run.{alias}", text))

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        with self.transaction():
            policy = self.policy
            rules = policy.find_alias_rules(name, alias)
            alias, before = self.find_held(name, alias) if rules else (alias, None)
            if before is not None:
                forbid_removal(rules, f"@{alias} of {name} may not be removed")
                self.append(Move(name, alias, before, None, alias_history.REMOVE), who(), policy.digest)
            super().delete_registered_model_alias(name, alias)

    # versions: what may be written on them, and when they may go

    def rules_on(self, policy: Policy, name: str, version: Any) -> list[Rule]:
        """The rules about a version; none if it is a prompt's, or a model of this name has none."""
        rules = policy.find_model_rules(name)
        is_ruled = bool(rules) and self.has_files(name, int(self.get_model_version(name, version).version))
        return rules if is_ruled else []

    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, *args: Any, **kwargs: Any
    ) -> ModelVersion:
        """An approval is of one version: a copy does not have it. Only name and source decide, so nothing is read."""
        rules = self.policy.find_model_rules(name) if is_of_files(source) else []
        tags = [tag for tag in tags or () if not is_own(tag.key, rules, with_approval=True)]
        return super().create_model_version(name, source, run_id, tags, *args, **kwargs)

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        with self.transaction():
            rules = self.rules_on(self.policy, name, version)
            forbid(rules, f"stages of {name} may not be changed, because its aliases are guarded")
            return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def delete_model_version(self, name: str, version: Any) -> None:
        with self.transaction():
            policy = self.policy
            for alias, champion, rules in self.list_held(policy, name):
                if champion == int(self.get_model_version(name, version).version):
                    forbid_removal(rules, f"version {champion} of {name} may not be deleted: it is @{alias}")
                    self.append(Move(name, alias, champion, None, alias_history.REMOVE), who(), policy.digest)
            super().delete_model_version(name, version)

    def set_model_version_tag(self, name: str, version: Any, tag: ModelVersionTag) -> None:
        with self.tag_allowed(name, version, tag.key, tag.value) as approves:
            super().set_model_version_tag(name, version, tag)
            if approves:
                super().set_model_version_tag(name, version, ModelVersionTag(tag.key + BY, find_request_user() or ""))

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        with self.tag_allowed(name, version, key, None) as approves:
            super().delete_model_version_tag(name, version, key)
            if approves:
                super().delete_model_version_tag(name, version, key + BY)

    @contextmanager
    def tag_allowed(self, name: str, version: Any, key: str, value: str | None) -> Iterator[bool]:
        """One transaction, in which a tag may be changed; whether the tag is an approval.

        Args:
            value: None if the tag is to be deleted.
        """
        with self.transaction():
            policy = self.policy
            rules = self.rules_on(policy, name, version)
            if is_own(key, rules):
                refuse(f"tag {key} is the gate's own; it may not be changed")
            if rules and is_evidence_key(key):
                self.forbid_change(policy, name, version, key, value)
            yield is_approval(key, rules)

    def forbid_change(self, policy: Policy, name: str, version: Any, key: str, value: str | None) -> None:
        """Refuses to change a tag with evidence that speaks for a champion."""
        current = self.get_model_version(name, version)
        for alias, champion, rules in self.list_held(policy, name):
            speaks = champion == int(current.version) and is_evidence_key(key, alias)
            if speaks and current.tags.get(key) != value:
                forbid(rules, f"tag {key} may not be changed: it is why version {champion} is @{alias}")

    # models: their names, their tags, their end

    def create_registered_model(self, name: str, tags: Any = None, *args: Any, **kwargs: Any) -> Any:
        for tag in tags or ():
            forbid_own_tag(tag.key)
        return super().create_registered_model(name, tags, *args, **kwargs)

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        with self.transaction():
            policy = self.policy
            if not (is_history_key(tag.key) and self.is_kept_by_clients(policy, name, tag)):
                forbid_own_tag(tag.key)
            forbid_prompt_tag(policy.find_model_rules(name), tag.key)
            super().set_registered_model_tag(name, tag)

    def is_kept_by_clients(self, policy: Policy, name: str, tag: RegisteredModelTag) -> bool:
        """Returns whether a tag is a new entry of a history that clients keep themselves: of an alias without rules."""
        alias = parse_entry_key(tag.key)
        if alias is None or (policy.find_alias_rules(name, alias) and not self.is_prompt(name)):
            return False
        known = {fold_case(row.key) for row in self.list_model_tags(name)}
        entries = alias_history.entries({tag.key: tag.value})
        return any(not entry.policy and known.isdisjoint(map(fold_case, entry.keys)) for entry in entries)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self.transaction():
            if is_history_key(key):
                forbid_own_tag(key)
            forbid_prompt_tag(self.policy.find_model_rules(name), key)
            super().delete_registered_model_tag(name, key)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        with self.transaction() as session:
            policy = self.policy
            for alias, _, rules in self.list_held(policy, name, new_name):
                forbid(rules, f"{name} may not be renamed to {new_name} while it has @{alias}")
            if rules := policy.find_model_rules(new_name):  # then only the gate may have written what it believes
                rows = [row for row in self.list_version_tags(name) if is_own(row.key, rules, with_approval=True)]
                rows += [row for row in self.list_model_tags(name) if not is_kept(policy, new_name, row)]
                for row in rows:
                    session.delete(row)
                session.flush()
            return self.mark_guarded(super().rename_registered_model(name, new_name))

    def delete_registered_model(self, name: str) -> None:
        with self.transaction():
            for alias, _, rules in self.list_held(self.policy, name):
                forbid(rules, f"{name} may not be deleted while it has @{alias}")
            super().delete_registered_model(name)

    # what clients are shown

    def get_registered_model(self, name: str) -> RegisteredModel:
        return self.mark_guarded(super().get_registered_model(name))

    def search_registered_models(self, *args: Any, **kwargs: Any) -> Any:
        found = super().search_registered_models(*args, **kwargs)
        for model in found:
            self.mark_guarded(model)
        return found

    def update_registered_model(self, *args: Any, **kwargs: Any) -> RegisteredModel:
        return self.mark_guarded(super().update_registered_model(*args, **kwargs))

    def mark_guarded(self, model: RegisteredModel) -> RegisteredModel:
        """Replaces a model's tags about the gate by one with the guarded aliases, in the answer only."""
        tags = get_all_tags(model)
        for key in [key for key in tags if is_gates(key)]:
            del tags[key]
        rules = self.policy.find_model_rules(model.name)
        if rules and not (has_prompt_tag(tags) and self.is_prompt(model.name)):
            tags[GATE_TAG] = ", ".join(sorted({fold_case(rule.alias) for rule in rules}))
        return model


class WorkspaceGateStore(GateStore, WorkspaceAwareSqlAlchemyStore):
    """A registry with workspaces, in each of which the rules hold."""


def is_kept(policy: Policy, new_name: str, tag: Any) -> bool:
    """Returns whether a model's tag may stay under a new name: not where only the gate may write it."""
    if is_gates(tag.key):
        return False
    if not is_history_key(tag.key):
        return True
    alias = parse_entry_key(tag.key)
    is_gates_entry = any(entry.policy for entry in alias_history.entries({tag.key: tag.value}))
    return alias is not None and (is_gates_entry or not policy.find_alias_rules(new_name, alias))


# what each write must not do, and the sentences that refuse it


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
    forbid([rule for rule in rules if rule.remove != "allowed"], sentence)


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


def forbid_own_tag(key: str) -> None:
    """Refuses a tag of a registered model that only the gate writes."""
    if is_history_key(key):
        refuse(f"tag {key} is a part of the history, which only the gate writes")
    if is_gates(key):
        refuse(f"tag {key} is the gate's own; it may not be set")


def forbid_prompt_tag(rules: Sequence[Rule], key: str) -> None:
    """Refuses the tag of prompts: a model that called itself one would have no rules."""
    if fold_case(key) == IS_PROMPT_TAG_KEY:
        forbid(rules, f"tag {key} may not be changed, because aliases of this name are guarded")
