"""Registered models: their names, their tags, their end."""

from __future__ import annotations

from typing import Any

from mlflow.entities.model_registry import RegisteredModel, RegisteredModelTag
from mlflow.prompt.registry_utils import has_prompt_tag

from mlflow_resnet.mlflow_seams import get_all_tags
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate import guards
from mlflow_resnet.registry.gate.guarded_versions import GuardedVersions
from mlflow_resnet.registry.gate.policy import Policy
from mlflow_resnet.registry.gate.rule import Rule
from mlflow_resnet.registry.patterns import fold_case


class GuardedModels(GuardedVersions):
    """A SQL store whose models do not slip away from their rules."""

    def create_registered_model(self, name: str, tags: Any = None, *args: Any, **kwargs: Any) -> Any:
        for tag in tags or ():
            guards.enforce(guards.forbid_own_tag(tag.key))
        return super().create_registered_model(name, tags, *args, **kwargs)

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        with self.transaction():
            policy = self.policy
            if not (guards.is_history(tag.key) and self.is_kept_by_clients(policy, name, tag)):
                guards.enforce(guards.forbid_own_tag(tag.key))
            guards.enforce(guards.forbid_prompt_tag(policy.find_model_rules(name), tag.key))
            super().set_registered_model_tag(name, tag)

    def is_kept_by_clients(self, policy: Policy, name: str, tag: RegisteredModelTag) -> bool:
        """Returns whether clients keep the history themselves, to which they may only add: aliases without rules."""
        alias = alias_history.alias_in(tag.key)
        is_guarded = alias is None or (policy.find_alias_rules(name, alias) and not self.is_prompt(name))
        is_new = fold_case(tag.key) not in {fold_case(row.key) for row in self.tags_of_model(name)}
        return not is_guarded and is_new and guards.is_clients_entry(tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self.transaction():
            if guards.is_history(key):
                guards.enforce(guards.forbid_own_tag(key))
            guards.enforce(guards.forbid_prompt_tag(self.policy.find_model_rules(name), key))
            super().delete_registered_model_tag(name, key)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        with self.transaction():
            policy = self.policy
            for held in self.list_held(policy, name, new_name):
                sentence = f"{name} may not be renamed to {new_name} while it has @{held.alias}"
                guards.enforce(guards.forbid(held.rules, sentence))
            if rules := policy.find_model_rules(new_name):
                self.forget(policy, name, new_name, rules)
            return self.mark_guarded(super().rename_registered_model(name, new_name))

    def forget(self, policy: Policy, name: str, new_name: str, rules: list[Rule]) -> None:
        """Removes tags that only the gate may write, before a model gets a name with rules."""
        approvals = [tag for tag in self.tags_of_versions(name) if guards.is_own(tag.key, rules, with_approval=True)]
        self.drop(approvals + [tag for tag in self.tags_of_model(name) if not is_kept(policy, new_name, tag)])

    def delete_registered_model(self, name: str) -> None:
        with self.transaction():
            for held in self.list_held(self.policy, name):
                guards.enforce(guards.forbid(held.rules, f"{name} may not be deleted while it has @{held.alias}"))
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
        for key in [key for key in tags if guards.is_gates(key)]:
            del tags[key]
        rules = self.policy.find_model_rules(model.name)
        if rules and not (has_prompt_tag(tags) and self.is_prompt(model.name)):
            tags[GATE_TAG] = ", ".join(sorted({fold_case(rule.alias) for rule in rules}))
        return model


def is_kept(policy: Policy, new_name: str, tag: Any) -> bool:
    """Returns whether a model's tag may stay under a new name: not where only the gate may write it."""
    if guards.is_gates(tag.key):
        return False
    if not guards.is_history(tag.key):
        return True
    alias = alias_history.alias_in(tag.key)
    is_gates_entry = any(entry.policy for entry in alias_history.entries({tag.key: tag.value}))
    return alias is not None and (is_gates_entry or not policy.find_alias_rules(new_name, alias))
