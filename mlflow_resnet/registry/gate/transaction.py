"""Several of MLflow's own writes as one transaction, and the history of aliases in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel, SqlRegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import update
from sqlalchemy.orm import Session

from mlflow_resnet.registry import history

OPEN: ContextVar[Session] = ContextVar("OPEN")  # the session of `locked`


class OneTransaction(SqlAlchemyStore):
    """A SQL store that can do several things at once, or none of them."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri=read_db_uri)
        self.ManagedSessionMaker = joined(self.ManagedSessionMaker)

    @contextmanager
    def locked(self, name: str) -> Iterator[SqlRegisteredModel]:
        """One transaction for all that is done in the block, MLflow's own methods too, and one at a time per model.

        Its first statement writes to the model's row, so every database makes others wait who do the same; sqlite
        lets only one write at all.
        """
        own = (SqlRegisteredModel.name == name, *self._get_workspace_clauses(SqlRegisteredModel))
        lock = update(SqlRegisteredModel).where(*own).values(last_updated_time=SqlRegisteredModel.last_updated_time)
        with self.ManagedSessionMaker(read_only=False) as session:
            session.execute(lock.execution_options(synchronize_session=False))
            token = OPEN.set(session)
            try:
                yield self._get_registered_model(session, name)
            finally:
                OPEN.reset(token)

    def held_by(self, name: str, alias: str) -> tuple[str, int | None]:
        """An alias as the database writes it, which may take other letters for the same, and its version."""
        row = self._get_registered_model_alias(OPEN.get(), name, alias)
        return (row.alias, row.version) if row else (alias, None)

    def append(self, model: SqlRegisteredModel, entry: history.Entry) -> None:
        """Adds to the history, in the transaction of the move itself."""
        row = SqlRegisteredModelTag(workspace=model.workspace, name=model.name, key=entry.tag, value=entry.to_text())
        OPEN.get().add(row)


def past_of(model: SqlRegisteredModel, alias: str) -> list[history.Entry]:
    """The moves of an alias, oldest first."""
    return history.entries({tag.key: tag.value for tag in model.registered_model_tags}, alias)


def joined(make_session: Callable[..., Any]) -> Callable[..., Any]:
    """Sessions for MLflow's methods, which inside of `locked` are its session and so are parts of its transaction."""

    @contextmanager
    def make(read_only: bool = True) -> Iterator[Session]:
        session = OPEN.get(None)
        if session is None:
            with make_session(read_only=read_only) as session:
                yield session
        else:
            yield session
            session.flush()

    return make
