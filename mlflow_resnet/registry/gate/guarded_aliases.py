"""Aliases: who may move them, and what is written down about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from mlflow.entities.model_registry import ModelVersionTag

from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.alias_history import Move
from mlflow_resnet.registry.evidence import read_signing_key
from mlflow_resnet.registry.gate import guards
from mlflow_resnet.registry.gate.decision import judge
from mlflow_resnet.registry.gate.policy import Policy
from mlflow_resnet.registry.gate.registry_rows import Rows
from mlflow_resnet.registry.gate.reloading import PolicyFile
from mlflow_resnet.registry.gate.server_facts import (
    Description,
    describe_mlmodel,
    find_request_user,
    prove_version,
    who,
)
from mlflow_resnet.registry.gate.situation import Situation, is_rollback


class GuardedAliases(Rows):
    """A SQL store whose aliases are moved only as the rules allow."""

    def __init__(self, db_uri: str, read_db_uri: str | None, policy: PolicyFile, tracking_uri: str | None) -> None:
        super().__init__(db_uri, read_db_uri)
        self.policy_file, self.tracking_uri = policy, tracking_uri

    @property
    def policy(self) -> Policy:
        """The current rules, read once per write so that one policy judges it."""
        return self.policy_file.current()

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        description = self.describe_version(name, alias, version)
        with self.transaction():
            policy = self.policy
            if not policy.find_alias_rules(name, alias) or self.is_for_prompts(name, version):
                return super().set_registered_model_alias(name, alias, version)
            situation = self.read_situation(name, alias, version, description)
            if situation.champion == situation.version:
                return None  # told again, after an answer that was lost
            verdicts = judge(policy.find_alias_rules(name, alias), situation)
            guards.enforce(guards.forbid_move(situation, verdicts, is_enforced=True))
            super().set_registered_model_alias(name, alias, version)
            self.note_move(policy, situation, verdicts)
        return None

    def describe_version(self, name: str, alias: str, version: Any) -> Description | None:
        """The MLmodel file, if a rule asks for it. It may take long to fetch, so it is not fetched under the lock."""
        if not any(rule.require.flavor or rule.require.signature for rule in self.policy.find_alias_rules(name, alias)):
            return None
        return describe_mlmodel(self, name, version, self.tracking_uri)

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

    def note_move(self, policy: Policy, situation: Situation, verdicts: Sequence[guards.Ruled]) -> None:
        """Writes the history's entry, and tags the version with what dry-run rules would have refused."""
        action = choose_action(situation, verdicts)
        used = [verdict.evidence for _, verdict in verdicts if verdict.evidence and action == alias_history.PROMOTE]
        digest, reason = situation.proven.model_sha256, used[0] if used else None
        name, alias, version = situation.name, situation.alias, situation.version
        self.note(policy, Move(name, alias, situation.champion, version, action, digest, reason))
        if refusal := guards.forbid_move(situation, verdicts, is_enforced=False):
            guards.enforce(refusal)
            text = f"{situation.now.isoformat(timespec='seconds')} would be refused: {refusal.sentence}"
            super().set_model_version_tag(name, version, ModelVersionTag(f"{guards.OWN_TAGS}dry_run.{alias}", text))

    def note(self, policy: Policy, move: Move) -> None:
        """Appends to the history."""
        past = self.list_past(move.name, move.alias)
        self.append(move.name, alias_history.next_entry(past[-1] if past else None, move, who(), policy.digest))

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        with self.transaction():
            policy = self.policy
            rules = policy.find_alias_rules(name, alias)
            alias, before = self.find_held(name, alias) if rules else (alias, None)
            if before is not None:
                guards.enforce(guards.forbid_removal(rules, f"@{alias} of {name} may not be removed"))
                self.note(policy, Move(name, alias, before, None, alias_history.REMOVE))
            super().delete_registered_model_alias(name, alias)


def choose_action(situation: Situation, verdicts: Sequence[guards.Ruled]) -> str:
    """Returns the action of a move for the history. A move that missed rules, all of which are only tried, is
    forced."""
    enforced = [verdict for rule, verdict in verdicts if rule.is_enforced]
    if not enforced and any(verdict.missing for _, verdict in verdicts):
        return alias_history.FORCE
    back = is_rollback(situation) and any(rule.allows_rollback for rule, _ in verdicts)
    return alias_history.ROLLBACK if back else alias_history.PROMOTE
