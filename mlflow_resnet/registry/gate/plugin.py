"""Builds the store for the URI schemes resnet-gate+sqlite, resnet-gate+postgresql, ...

MLflow loads this module in every process that imports it, so it imports nothing until a store is wanted.
"""

from __future__ import annotations

from typing import Any

PREFIX = "resnet-gate+"
POLICY_VARIABLE = "MLFLOW_RESNET_GATE_POLICY"


def build(store_uri: str, tracking_uri: str | None = None) -> Any:
    """MLflow's SQL store, with the gate if there is a policy.

    Raises:
        InvalidPolicyError: if the policy has mistakes, so that the server does not start.
    """
    import os
    from pathlib import Path

    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

    base = WorkspaceAwareSqlAlchemyStore if MLFLOW_ENABLE_WORKSPACES.get() else SqlAlchemyStore
    db_uri, replica = store_uri.removeprefix(PREFIX), os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR)
    path = os.environ.get(POLICY_VARIABLE)
    if not path:
        return base(db_uri, read_db_uri=replica)

    from mlflow_resnet.registry.gate.reloading import PolicyFile
    from mlflow_resnet.registry.gate.store import GateMixin

    gated = type("GateStore", (GateMixin, base), {})
    return gated(db_uri, replica, PolicyFile(Path(path)), tracking_uri)
