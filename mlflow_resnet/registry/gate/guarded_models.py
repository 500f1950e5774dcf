"""Registered models: their names, their tags, their end."""

from __future__ import annotations

from typing import Any

from mlflow.entities.model_registry import RegisteredModel, RegisteredModelTag
from mlflow.prompt.registry_utils import has_prompt_tag

from mlflow_resnet.mlflow_seams import get_all_tags
from mlflow_resnet.registry import history
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate import guards
from mlflow_resnet.registry.gate.guarded_versions import GuardedVersions
from mlflow_resnet.registry.gate.policy import Policy
from mlflow_resnet.registry.gate.rule import Rule
from mlflow_resnet.registry.patterns import folded


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
            guards.enforce(guards.forbid_prompt_tag(policy.covering(name), tag.key))
            super().set_registered_model_tag(name, tag)

    def is_kept_by_clients(self, policy: Policy, name: str, tag: RegisteredModelTag) -> bool:
        """Of aliases without rules, clients keep the history themselves: they may add to it, and change nothing."""
        alias = history.alias_in(tag.key)
        is_guarded = alias is None or (policy.guarding(name, alias) and not self.is_prompt(name))
        is_new = folded(tag.key) not in {folded(row.key) for row in self.tags_of_model(name)}
        return not is_guarded and is_new and guards.is_clients_entry(tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self.transaction():
            if guards.is_history(key):
                guards.enforce(guards.forbid_own_tag(key))
            guards.enforce(guards.forbid_prompt_tag(self.policy.covering(name), key))
            super().delete_registered_model_tag(name, key)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        with self.transaction():
            policy = self.policy
            for held in self.held(policy, name, new_name):
                sentence = f"{name} may not be renamed to {new_name} while it has @{held.alias}"
                guards.enforce(guards.forbid(held.rules, sentence))
            if rules := policy.covering(new_name):
                self.forget(policy, name, new_name, rules)
            return self.shown(super().rename_registered_model(name, new_name))

    def forget(self, policy: Policy, name: str, new_name: str, rules: list[Rule]) -> None:
        """Before a model gets a name with rules: removes what only the gate would have written under that name."""
        approvals = [tag for tag in self.tags_of_versions(name) if guards.is_own(tag.key, rules, with_approval=True)]
        self.drop(approvals + [tag for tag in self.tags_of_model(name) if not is_kept(policy, new_name, tag)])

    def delete_registered_model(self, name: str) -> None:
        with self.transaction():
            for held in self.held(self.policy, name):
                guards.enforce(guards.forbid(held.rules, f"{name} may not be deleted while it has @{held.alias}"))
            super().delete_registered_model(name)

    # what clients are shown

    def get_registered_model(self, name: str) -> RegisteredModel:
        return self.shown(super().get_registered_model(name))

    def search_registered_models(self, *args: Any, **kwargs: Any) -> Any:
        found = super().search_registered_models(*args, **kwargs)
        for model in found:
            self.shown(model)
        return found

    def update_registered_model(self, *args: Any, **kwargs: Any) -> RegisteredModel:
        return self.shown(super().update_registered_model(*args, **kwargs))

    def shown(self, model: RegisteredModel) -> RegisteredModel:
        """Says in a tag which aliases are guarded, and nothing that a client wrote under its name."""
        tags = get_all_tags(model)
        for key in [key for key in tags if guards.is_gates(key)]:
            del tags[key]
        rules = self.policy.covering(model.name)
        if rules and not (has_prompt_tag(tags) and self.is_prompt(model.name)):
            tags[GATE_TAG] = ", ".join(sorted({folded(rule.alias) for rule in rules}))
        return model


def is_kept(policy: Policy, new_name: str, tag: Any) -> bool:
    """Whether a model's tag may stay when it gets this name: not what clients wrote where only the gate writes now."""
    if guards.is_gates(tag.key):
        return False
    if not guards.is_history(tag.key):
        return True
    alias = history.alias_in(tag.key)
    is_gates_entry = any(entry.policy for entry in history.entries({tag.key: tag.value}))
    return alias is not None and (is_gates_entry or not policy.guarding(new_name, alias))
