"""Builds the store for the URI schemes resnet-gate+sqlite, resnet-gate+postgresql, ...

MLflow loads this module in every process that imports it, so it imports nothing until a store is wanted.
"""

from __future__ import annotations

from typing import Any

SCHEME_PREFIX = "resnet-gate+"
OLDEST_MLFLOW = (3, 17)  # whose store the gate knows; clients may be older
POLICY_VARIABLE = "MLFLOW_RESNET_GATE_POLICY"


def build(store_uri: str, tracking_uri: str | None = None) -> Any:
    """MLflow's SQL store, with the gate if there is a policy.

    Raises:
        OldServerError: if MLflow is too old.
        InvalidPolicyError: if the policy has mistakes, so that the server does not start.
        UnknownMethodsError: if MLflow's store can do what the gate does not know of.
    """
    import logging
    import os
    from importlib.metadata import version
    from pathlib import Path

    from mlflow_resnet.registry.gate.known_methods import OldServerError, require_known

    installed = version("mlflow")
    if tuple(map(int, installed.split(".")[:2])) < OLDEST_MLFLOW:
        raise OldServerError(installed, OLDEST_MLFLOW)

    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

    db_uri, replica = store_uri.removeprefix(SCHEME_PREFIX), os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR)
    has_workspaces, path = bool(MLFLOW_ENABLE_WORKSPACES.get()), os.environ.get(POLICY_VARIABLE)
    base = WorkspaceAwareSqlAlchemyStore if has_workspaces else SqlAlchemyStore
    if path is None:
        logging.getLogger(__name__).warning(
            "%s is not set: this store has no rules and guards nothing", POLICY_VARIABLE
        )
        return base(db_uri, read_db_uri=replica)

    from mlflow_resnet.registry.gate.policy import InvalidPolicyError, PolicyFile
    from mlflow_resnet.registry.gate.store import GateStore, WorkspaceGateStore

    if not path.strip():
        raise InvalidPolicyError(Path(POLICY_VARIABLE), ["it is empty; expected the path of the policy"])
    require_known(base)
    store = WorkspaceGateStore if has_workspaces else GateStore
    return store(db_uri, replica, PolicyFile(Path(path)), tracking_uri)
