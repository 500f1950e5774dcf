"""A gate that does not know what MLflow's store can do does not start."""

from __future__ import annotations

import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from mlflow_resnet.registry.gate import known_methods
from mlflow_resnet.registry.gate.known_methods import UnknownMethodsError, require_known
from mlflow_resnet.registry.gate.plugin import build
from mlflow_resnet.registry.gate.store import GateStore


def public(store):
    return {name for name in dir(store) if not name.startswith("_") and callable(getattr(store, name))}


@pytest.mark.parametrize("store", [SqlAlchemyStore, WorkspaceAwareSqlAlchemyStore])
def test_every_method_of_this_mlflow_has_its_place(store):
    require_known(store)
    assert public(store) == known_methods.KNOWN


def test_each_is_in_one_place():
    places = (known_methods.GUARDED, known_methods.MADE_OF_GUARDED, known_methods.HARMLESS, known_methods.READING)
    assert sum(map(len, places)) == len(known_methods.KNOWN)


def test_what_must_be_guarded_is_overridden_and_what_is_not_is_mlflows():
    def is_ours(name):
        return getattr(GateStore, name).__module__.startswith("mlflow_resnet.")

    assert all(map(is_ours, known_methods.GUARDED))
    shown = {"get_registered_model", "search_registered_models", "update_registered_model"}
    assert {name for name in known_methods.KNOWN - known_methods.GUARDED if is_ours(name)} == shown


def test_a_method_that_came_with_an_update_stops_the_server_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "policy.yaml").write_text("- {models: a, alias: champion}\n")
    monkeypatch.setenv("MLFLOW_RESNET_GATE_POLICY", str(tmp_path / "policy.yaml"))
    monkeypatch.setattr(SqlAlchemyStore, "set_registered_model_aliases", lambda *_: None, raising=False)
    with pytest.raises(UnknownMethodsError) as error:
        build(f"resnet-gate+sqlite:///{tmp_path}/mlflow.db")
    assert error.value.message == (
        "the gate does not start: it does not know what MLflow's registry store does in set_registered_model_aliases. "
        "Install a version of mlflow_resnet that was made for this MLflow, or the MLflow that was here before."
    )
    assert not (tmp_path / "mlflow.db").exists()
