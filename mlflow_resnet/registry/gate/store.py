"""MLflow's own SQL store with the gate before its writes. Reads, and models without rules, are MLflow's alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

from mlflow_resnet.registry import evidence, history
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate import guards
from mlflow_resnet.registry.gate.decision import BY, Move, Proven, is_rollback, judged
from mlflow_resnet.registry.gate.facts import proven, user, who
from mlflow_resnet.registry.gate.policy import Policy, Rule, folded
from mlflow_resnet.registry.gate.reloading import PolicyFile
from mlflow_resnet.registry.gate.transaction import OneTransaction, past_of


class GateMixin(OneTransaction):
    """Goes before a SqlAlchemyStore."""

    def __init__(self, db_uri: str, read_db_uri: str | None, policy: PolicyFile, tracking_uri: str | None) -> None:
        super().__init__(db_uri, read_db_uri)
        self.policy_file, self.tracking_uri = policy, tracking_uri

    @property
    def policy(self) -> Policy:
        return self.policy_file.current()

    def rules_of(self, name: str) -> list[Rule]:
        """The rules about a model; none if it is a prompt."""
        rules = self.policy.covering(name)
        return [] if rules and self.is_prompt(name) else rules

    def is_prompt(self, name: str) -> bool:
        with self.ManagedSessionMaker() as session:
            model = self._get_query(session, SqlRegisteredModel).filter(SqlRegisteredModel.name == name).first()
            return bool(model and guards.is_prompt(model))

    # aliases

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        rules = self.policy.guarding(name, alias)
        if not rules or (self.is_prompt(name) and guards.has_no_files(self.get_model_version(name, version))):
            return super().set_registered_model_alias(name, alias, version)
        number = int(self.get_model_version(name, version).version)
        reads_files = any(rule.flavor or rule.signature for rule in rules)
        known = proven(self, name, number, self.tracking_uri, reads_files)
        with self.locked(name) as model:
            move = self.move_of(model, alias, number, known)
            if move.champion == number:
                return None  # told again, after an answer that was lost
            verdicts = [(rule, judged(rule, move)) for rule in rules]
            guards.refuse_move(move, verdicts)
            super().set_registered_model_alias(name, alias, version)
            self.note_move(model, move, verdicts)
        return None

    def move_of(self, model: SqlRegisteredModel, alias: str, version: int, known: Proven) -> Move:
        """All that the decision depends on, as it is under the lock."""
        name = str(model.name)
        candidate, (alias, champion) = self.get_model_version(name, version), self.held_by(name, alias)
        return Move(
            name=name,
            alias=alias,
            version=version,
            tags=dict(candidate.tags),
            status=candidate.status,
            proven=known,
            champion=champion,
            past=past_of(model, alias),
            user=user(),
            key=os.environ.get(evidence.KEY_VARIABLE, ""),
            now=datetime.now(timezone.utc),
        )

    def note_move(self, model: SqlRegisteredModel, move: Move, verdicts: Sequence[guards.Ruled]) -> None:
        """The history's entry, and on the version what a rule that is only tried would have refused."""
        action = action_of(move, verdicts)
        used = [verdict.evidence for _, verdict in verdicts if verdict.evidence and action == history.PROMOTE]
        weights, reason = move.proven.model_sha256, used[0] if used else None
        self.note(model, move.alias, action, move.champion, move.version, weights, reason)
        if text := guards.dry_run_text(move, verdicts):
            tag = ModelVersionTag(f"{guards.OWN_TAGS}dry_run.{move.alias}", text)
            super().set_model_version_tag(move.name, move.version, tag)

    def note(self, model: SqlRegisteredModel, alias: str, action: str, before: int | None, *after: Any) -> None:
        """Appends to the history. `after` is what `history.next_entry` takes after it."""
        past = past_of(model, alias)
        to, weights, reason = after or (None, "", None)
        entry = history.next_entry(
            past[-1] if past else None, alias, who(), action, before, to, weights, reason, self.policy.digest
        )
        self.append(model, entry)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        rules = [rule for rule in self.rules_of(name) if rule.guards(name, alias)]
        if not rules:
            return super().delete_registered_model_alias(name, alias)
        with self.locked(name) as model:
            alias, before = self.held_by(name, alias)
            if before is not None:
                guards.refuse_removal(rules, f"@{alias} of {name} may not be removed")
                self.note(model, alias, history.REMOVE, before)
            super().delete_registered_model_alias(name, alias)
        return None

    # versions

    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, *args: Any, **kwargs: Any
    ) -> ModelVersion:
        """An approval is of one version: a copy does not have it."""
        rules = self.rules_of(name)
        tags = [tag for tag in tags or () if not guards.is_own(tag.key, rules, with_approval=True)]
        return super().create_model_version(name, source, run_id, tags, *args, **kwargs)

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        guards.refuse(self.rules_of(name), f"stages of {name} may not be changed, because its aliases are guarded")
        return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def delete_model_version(self, name: str, version: Any) -> None:
        if not self.rules_of(name):
            return super().delete_model_version(name, version)
        with self.locked(name) as model:
            number = int(self.get_model_version(name, version).version)
            for alias, champion, rules in guards.held(self.policy, model, name):
                if champion == number:
                    guards.refuse_removal(rules, f"version {number} of {name} may not be deleted: it is @{alias}")
                    self.note(model, alias, history.REMOVE, number)
            super().delete_model_version(name, version)
        return None

    def set_model_version_tag(self, name: str, version: Any, tag: ModelVersionTag) -> None:
        with self.tag_allowed(name, version, tag.key, tag.value) as approves:
            super().set_model_version_tag(name, version, tag)
            if approves:
                super().set_model_version_tag(name, version, ModelVersionTag(tag.key + BY, user() or ""))

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
        rules = self.rules_of(name)
        if guards.is_own(key, rules):
            guards.refuse_always(f"tag {key} is the gate's own; it may not be changed")
        approves = guards.is_approval(key, rules)
        if not rules or not (approves or guards.is_evidence(key)):
            yield False
            return
        with self.locked(name) as model:
            current = self.get_model_version(name, version)
            for alias, champion, of_alias in guards.held(self.policy, model, name):
                speaks = guards.is_evidence(key) and folded(key).endswith(f".{folded(alias)}")
                if speaks and champion == int(current.version) and current.tags.get(key) != value:
                    guards.refuse(of_alias, f"tag {key} may not be changed: it is why version {champion} is @{alias}")
            yield approves

    # models

    def create_registered_model(self, name: str, tags: Any = None, *args: Any, **kwargs: Any) -> Any:
        for tag in tags or ():
            guards.refuse_history(tag.key)
        return super().create_registered_model(name, tags, *args, **kwargs)

    def get_registered_model(self, name: str) -> RegisteredModel:
        """Shows clients which aliases are guarded."""
        model = super().get_registered_model(name)
        if rules := self.rules_of(name):
            model._add_tag(RegisteredModelTag(GATE_TAG, ", ".join(sorted({folded(rule.alias) for rule in rules}))))
        return model

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        if guards.is_history(tag.key) and not self.is_kept_by_clients(name, tag):
            guards.refuse_history(tag.key)
        guards.refuse_prompt_tag(self.policy.covering(name), tag.key)
        super().set_registered_model_tag(name, tag)

    def is_kept_by_clients(self, name: str, tag: RegisteredModelTag) -> bool:
        """Of models without rules, clients keep the history themselves."""
        return not self.rules_of(name) and guards.is_clients_history(tag, super().get_registered_model(name).tags)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        guards.refuse_history(key)
        guards.refuse_prompt_tag(self.policy.covering(name), key)
        super().delete_registered_model_tag(name, key)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        is_covered = self.policy.covering(name) or self.policy.covering(new_name)
        if not is_covered or self.is_prompt(name):
            return super().rename_registered_model(name, new_name)
        with self.locked(name) as model:
            for alias, _, rules in guards.held(self.policy, model, name, new_name):
                guards.refuse(rules, f"{name} may not be renamed to {new_name} while it has @{alias}")
            return super().rename_registered_model(name, new_name)

    def delete_registered_model(self, name: str) -> None:
        if not self.rules_of(name):
            return super().delete_registered_model(name)
        with self.locked(name) as model:
            for alias, _, rules in guards.held(self.policy, model, name):
                guards.refuse(rules, f"{name} may not be deleted while it has @{alias}")
            super().delete_registered_model(name)
        return None


def action_of(move: Move, verdicts: Sequence[guards.Ruled]) -> str:
    """What the history calls it. A move that met no rule, because all rules are only tried, is forced."""
    if all(verdict.missing for _, verdict in verdicts):
        return history.FORCE
    back = is_rollback(move) and any(rule.rollback for rule, _ in verdicts)
    return history.ROLLBACK if back else history.PROMOTE
