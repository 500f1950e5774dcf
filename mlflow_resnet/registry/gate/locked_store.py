"""One registry-wide lock: whatever is read, decided and written for a request is one transaction, one at a time.

Nothing that was read before the lock is believed under it. Registries have few writes, so they need not be parallel.
What the tables say under the lock is asked here too. A version without files is a prompt's, which can be neither loaded
nor served: it is never a champion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import text
from sqlalchemy.orm import Session

from mlflow_resnet.mlflow_seams import PROMPT_SOURCES, find_model_row, query_rows
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.gate.policy import Policy
from mlflow_resnet.registry.gate.rule import Rule

TABLES = (SqlRegisteredModel, SqlModelVersion, SqlRegisteredModelTag, SqlModelVersionTag, SqlRegisteredModelAlias)
TABLE_NAMES = ", ".join(table.__tablename__ for table in TABLES)
WAIT = "60s"  # for the lock, on PostgreSQL; on sqlite MLflow waits for 20 s, MySQL for 50 s
LOCKS = {  # by dialect; the first statements of a transaction
    "sqlite": ("BEGIN IMMEDIATE",),
    # It excludes every writer of these tables, other servers on the same database too, and no reader.
    "postgresql": (f"SET LOCAL lock_timeout = '{WAIT}'", f"LOCK TABLE {TABLE_NAMES} IN SHARE ROW EXCLUSIVE MODE"),
    # All rows and the gaps between them, so that none can be added either.
    "mysql": (f"SELECT name FROM {SqlRegisteredModel.__tablename__} FOR UPDATE",),
}


class LockedStore(SqlAlchemyStore):
    """A SQL store whose writes all take the lock first, and that can do several of them at once, or none."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri=read_db_uri)
        dialect = self.engine.dialect.name
        if dialect not in LOCKS:
            raise MlflowException.invalid_parameter_value(
                f"the gate cannot lock a database of {dialect}; expected {' or '.join(LOCKS)}"
            )
        self.lock = [text(statement) for statement in LOCKS[dialect]]
        self.open: ContextVar[Session | None] = ContextVar("open", default=None)
        self.make_session: Callable[..., Any] = self.ManagedSessionMaker
        self.ManagedSessionMaker = self.join_transaction

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction for all that is done in the block, MLflow's own methods too. It is locked before it reads.

        Raises:
            MlflowException: 503 if the lock is not to be had in time, or was lost on the way.
        """
        if (session := self.open.get()) is not None:
            yield session
            return
        with self.make_session(read_only=False) as session:
            for statement in self.lock:
                session.execute(statement).close()
            begun = session.get_transaction()
            token = self.open.set(session)
            try:
                yield session
                session.flush()
            finally:
                self.open.reset(token)
            if session.get_transaction() is not begun:  # rolled back by who then went on, without the lock
                raise MlflowException("The registry was changed meanwhile; try again.", TEMPORARILY_UNAVAILABLE)

    @contextmanager
    def join_transaction(self, read_only: bool = True) -> Iterator[Session]:
        """Sessions for MLflow's methods: inside of `transaction` its own, outside of it one with the lock to write."""
        session = self.open.get()
        if session is not None and session.is_active:
            yield session
            session.flush()
        elif read_only:  # also what is asked after a write failed, which has ended the transaction
            with self.make_session(read_only=True) as session:
                yield session
        else:
            with self.transaction() as session:
                yield session

    # what the tables say

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
        is_marked = any(tag.value == "true" for tag in tags)
        return is_marked and not any(map(has_files, self.rows(SqlModelVersion, name=name)))

    def find_held(self, name: str, alias: str) -> tuple[str, int | None]:
        """Returns an alias as spelled in the database, and its version."""
        found = self.rows(SqlRegisteredModelAlias, name=name, alias=alias)
        if not found:
            return alias, None
        return found[0].alias, found[0].version if self.has_files(name, found[0].version) else None

    def list_held(self, policy: Policy, name: str, *names: str) -> list[tuple[str, int, list[Rule]]]:
        """The guarded aliases of a model, by this name or others that it may get: alias, version with files, rules."""
        found = []
        for row in self.rows(SqlRegisteredModelAlias, name=name):
            rules = [rule for rule in policy.rules if any(rule.guards(each, row.alias) for each in (name, *names))]
            if rules and self.has_files(name, row.version):
                found.append((row.alias, row.version, rules))
        return found

    def list_past(self, name: str, alias: str) -> list[alias_history.HistoryEntry]:
        """The moves of an alias, oldest first."""
        return alias_history.entries({tag.key: tag.value for tag in self.list_model_tags(name)}, alias)

    def append(self, move: alias_history.Move, who: str, policy: str) -> None:
        """Adds to the history, in the transaction of the move itself."""
        with self.transaction() as session:
            past, model = self.list_past(move.name, move.alias), self.find_row(move.name)
            entry = alias_history.next_entry(past[-1] if past else None, move, who, policy)
            text = entry.to_text()
            session.add(SqlRegisteredModelTag(workspace=model.workspace, name=model.name, key=entry.tag, value=text))
            session.flush()

    def list_version_tags(self, name: str) -> list[Any]:
        """Rows of the tags of all versions with files."""
        return [row for row in self.rows(SqlModelVersionTag, name=name) if self.has_files(name, row.version)]

    def list_model_tags(self, name: str) -> list[Any]:
        return self.rows(SqlRegisteredModelTag, name=name)


def has_files(row: Any) -> bool:
    return bool(row.current_stage != STAGE_DELETED_INTERNAL and is_of_files(row.source))


def is_of_files(source: str | None) -> bool:
    """Returns whether the source of a version can be loaded, unlike that of a prompt."""
    return source not in PROMPT_SOURCES
