"""Versions: what may be written on them, and when they may go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.alias_history import Move
from mlflow_resnet.registry.gate import guards
from mlflow_resnet.registry.gate.guarded_aliases import GuardedAliases
from mlflow_resnet.registry.gate.policy import Policy
from mlflow_resnet.registry.gate.registry_rows import is_of_files
from mlflow_resnet.registry.gate.rule import BY, Rule
from mlflow_resnet.registry.gate.server_facts import find_request_user
from mlflow_resnet.registry.patterns import fold_case


class GuardedVersions(GuardedAliases):
    """A SQL store whose versions keep the evidence that made them champion."""

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
        tags = [tag for tag in tags or () if not guards.is_own(tag.key, rules, with_approval=True)]
        return super().create_model_version(name, source, run_id, tags, *args, **kwargs)

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        with self.transaction():
            rules = self.rules_on(self.policy, name, version)
            sentence = f"stages of {name} may not be changed, because its aliases are guarded"
            guards.enforce(guards.forbid(rules, sentence))
            return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def delete_model_version(self, name: str, version: Any) -> None:
        with self.transaction():
            policy = self.policy
            for held in self.list_held(policy, name):
                if held.version == int(self.get_model_version(name, version).version):
                    sentence = f"version {held.version} of {name} may not be deleted: it is @{held.alias}"
                    guards.enforce(guards.forbid_removal(held.rules, sentence))
                    self.note(policy, Move(name, held.alias, held.version, None, alias_history.REMOVE))
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
            if guards.is_own(key, rules):
                guards.enforce(guards.Refusal(f"tag {key} is the gate's own; it may not be changed"))
            if rules and guards.is_evidence(key):
                self.require_not_used(policy, name, version, key, value)
            yield guards.is_approval(key, rules)

    def require_not_used(self, policy: Policy, name: str, version: Any, key: str, value: str | None) -> None:
        """Raises if a tag with evidence speaks for a champion and would change."""
        current = self.get_model_version(name, version)
        for held in self.list_held(policy, name):
            speaks = held.version == int(current.version) and fold_case(key).endswith(f".{fold_case(held.alias)}")
            if speaks and current.tags.get(key) != value:
                sentence = f"tag {key} may not be changed: it is why version {held.version} is @{held.alias}"
                guards.enforce(guards.forbid(held.rules, sentence))
