"""One registry-wide lock: whatever is read, decided and written for a request is one transaction, one at a time.

Nothing that was read before the lock is believed under it. Registries have few writes, so they need not be parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mlflow.exceptions import MlflowException
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


class OneTransaction(SqlAlchemyStore):
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
