"""Finds what a server still has of a completely recorded training."""

from __future__ import annotations

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.registry.versions import find_version
from mlflow_resnet.tracking.card import for_version
from mlflow_resnet.tracking.pieces import VersionPiece
from mlflow_resnet.tracking.run import find_known, find_run


def find_gone(ids: Notes) -> str:
    """Returns what the server no longer has of run and model; empty if it has both. A run in the trash is there."""
    where = f"is no longer on MLflow at {mlflow.get_tracking_uri()}"
    run_id, model_id = ids.get("run_id") or "", ids.get("model_id") or ""
    run = find_run(run_id)
    if run is None or not is_active_experiment(run.info.experiment_id):
        return f"its run {run_id} {where}"
    model = find_known(lambda: MlflowClient().get_logged_model(model_id))
    return "" if model else f"its model {model_id} {where}"


def is_active_experiment(experiment_id: str) -> bool:
    return bool(MlflowClient().get_experiment(experiment_id).lifecycle_stage == LifecycleStage.ACTIVE)


def restore_run(run_id: str) -> None:
    """Takes the run out of the trash, if it is there."""
    if MlflowClient().get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
        MlflowClient().restore_run(run_id)
        say(f"run {run_id} was in the trash of MLflow, and is restored")


def find_unregistered(ids: Notes, name: str, alias: str) -> VersionPiece | None:
    """Returns the piece to send so that the model is a version of `name`, with the alias if that is free.

    None if that is so; `ids` then say which version it is, and whether it has the alias.
    """
    version = find_version(f"models:/{ids['model_id']}", name)
    holder = find_holder(name, alias) if alias else ""
    if holder and (version is None or holder != str(version.version)):
        say(f"alias {alias} of {name} leads to version {holder} by now, and stays there")
        alias = ""
    if version is None or (alias and not holder):
        note = MlflowClient().get_run(ids["run_id"]).data.tags.get(MLFLOW_RUN_NOTE, "")
        return VersionPiece(name=name, alias=alias, description=for_version(note), tags=ids.get("headline", {}))
    ids.note(version=str(version.version), alias=alias)
    return None


def find_holder(name: str, alias: str) -> str:
    """The version that has the alias; empty if none has."""
    model = find_known(lambda: MlflowClient().get_registered_model(name))
    return str(model.aliases.get(alias, "")) if model else ""
