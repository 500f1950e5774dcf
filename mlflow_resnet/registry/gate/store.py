"""MLflow's own SQL store with the gate before its writes. Reads, and models without rules, are MLflow's alone."""

from __future__ import annotations

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from mlflow_resnet.registry.gate.guarded_models import GuardedModels
from mlflow_resnet.registry.gate.known_methods import require_known


class GateStore(GuardedModels):
    """A registry without workspaces."""


class WorkspaceGateStore(GuardedModels, WorkspaceAwareSqlAlchemyStore):
    """A registry with workspaces, in each of which the rules hold."""


def gate_store(has_workspaces: bool) -> type[GuardedModels]:
    """The class of the store.

    Raises:
        UnknownMethodsError: if MLflow's can do what the gate does not know of.
    """
    require_known(WorkspaceAwareSqlAlchemyStore if has_workspaces else SqlAlchemyStore)
    return WorkspaceGateStore if has_workspaces else GateStore
