"""Queries the registry's tables inside a transaction.

A version without files is a prompt's, which can be neither loaded nor served: it is never a champion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)

from mlflow_resnet.mlflow_seams import PROMPT_SOURCES, find_model_row, query_rows
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.gate.policy import Policy
from mlflow_resnet.registry.gate.rule import Rule
from mlflow_resnet.registry.gate.transaction import OneTransaction


@dataclass(frozen=True)
class Held:
    """A guarded alias that points to a version with files, and the rules about it."""

    alias: str
    version: int
    rules: list[Rule]


class Rows(OneTransaction):
    """A SQL store with the gate's queries."""

    def rows(self, table: Any, **wanted: Any) -> list[Any]:
        """The rows of the workspace that have these values, as the transaction sees them."""
        with self.ManagedSessionMaker() as session:
            found = list(query_rows(self, session, table).filter_by(**wanted).populate_existing())
            if session is not self.open.get():
                session.expunge_all()  # to be read after this session ends
            return found

    def find_row(self, name: str) -> Any:
        """The registered model as the database writes its name; MlflowException if there is none."""
        with self.ManagedSessionMaker() as session:
            return find_model_row(self, session, name)

    def has_files(self, name: str, version: int) -> bool:
        """Whether there is such a version, and it is no prompt's."""
        return any(map(has_files, self.rows(SqlModelVersion, name=name, version=version)))

    def is_prompt(self, name: str) -> bool:
        """Whether a model calls itself a prompt and has no version with files."""
        tags = self.rows(SqlRegisteredModelTag, name=name, key=IS_PROMPT_TAG_KEY)
        versions = self.rows(SqlModelVersion, name=name)
        return any(tag.value == "true" for tag in tags) and not any(map(has_files, versions))

    def find_held(self, name: str, alias: str) -> tuple[str, int | None]:
        """Returns an alias as spelled in the database, and its version."""
        found = self.rows(SqlRegisteredModelAlias, name=name, alias=alias)
        if not found:
            return alias, None
        return found[0].alias, found[0].version if self.has_files(name, found[0].version) else None

    def list_held(self, policy: Policy, name: str, *names: str) -> list[Held]:
        """The guarded aliases of a model, by its name or any of the others that it may get."""
        found = []
        for row in self.rows(SqlRegisteredModelAlias, name=name):
            rules = [rule for rule in policy.rules if any(rule.guards(each, row.alias) for each in (name, *names))]
            if rules and self.has_files(name, row.version):
                found.append(Held(row.alias, row.version, rules))
        return found

    def list_past(self, name: str, alias: str | None = None) -> list[alias_history.HistoryEntry]:
        """The moves of an alias, oldest first."""
        return alias_history.entries({tag.key: tag.value for tag in self.tags_of_model(name)}, alias)

    def append(self, name: str, entry: alias_history.HistoryEntry) -> None:
        """Adds to the history, in the transaction of the move itself."""
        with self.transaction() as session:
            model, text = self.find_row(name), entry.to_text()
            session.add(SqlRegisteredModelTag(workspace=model.workspace, name=model.name, key=entry.tag, value=text))
            session.flush()

    def tags_of_versions(self, name: str) -> list[Any]:
        """Rows of the tags of all versions with files."""
        return [row for row in self.rows(SqlModelVersionTag, name=name) if self.has_files(name, row.version)]

    def tags_of_model(self, name: str) -> list[Any]:
        return self.rows(SqlRegisteredModelTag, name=name)

    def drop(self, rows: list[Any]) -> None:
        with self.transaction() as session:
            for row in rows:
                session.delete(row)
            session.flush()


def has_files(row: Any) -> bool:
    return bool(row.current_stage != STAGE_DELETED_INTERNAL and is_of_files(row.source))


def is_of_files(source: str | None) -> bool:
    """Returns whether the source of a version can be loaded, unlike that of a prompt."""
    return source not in PROMPT_SOURCES
