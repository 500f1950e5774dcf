"""The pieces that a run's record consists of, and how each reaches the tracking server.

A piece is a dictionary that JSON can hold, and perhaps a folder of files, so that it can wait on a disk. Delivered
twice, it leaves the same as delivered once, because after a kill nobody knows whether the server had received it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_resnet import flavor
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.mlflow_seams import DATASET_CONTEXT_TAG, TABLES_TAG
from mlflow_resnet.model.stored import FLAVOR_NAME, MODEL_SHA256, read_model
from mlflow_resnet.registry import aliases, versions
from mlflow_resnet.tracking.conflicts import RECORD_TAG, differing_params, find_conflict
from mlflow_resnet.tracking.dataset import name_for_stores
from mlflow_resnet.tracking.run import find_run

MODEL_NAME = "model"
PARAMS_AT_ONCE = 100  # the most that MLflow takes
PREFIX = "mlflow_resnet."
PIECE_TAG = "mlflow_resnet.piece"  # by which a run or a model is found again, if its id was lost with the answer


def deliver(piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """Sends a piece. `ids` has the ids of run and model, and gets those that the server gives.

    Raises:
        Exception: of any kind, if it cannot be sent.
    """
    DELIVERIES[piece["kind"]](MlflowClient(), piece, files, ids)


def send_run(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """A run for a training that began without a server."""
    if ids.get("run_id"):
        return
    experiment_id = piece["experiment_id"] or experiment_called(client, piece["experiment"])
    known = client.search_runs([experiment_id], f"tags.`{PIECE_TAG}` = '{piece['id']}'", max_results=1)
    tags = piece["tags"] | {PIECE_TAG: piece["id"]}
    run = known[0] if known else client.create_run(experiment_id, piece["time"], tags, piece["name"])
    ids.note(run_id=run.info.run_id)


def send_given_run(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """The run that was given to a training without a server, a child of it if it holds another, a new one if none.

    Only the server can tell which.
    """
    if ids.get("run_id"):
        return
    given, tags = find_run(piece["run_id"]), {RECORD_TAG: piece["record_id"]}
    if given is None or given.info.lifecycle_stage != LifecycleStage.ACTIVE:
        send_run(client, {**piece, "tags": piece["tags"] | tags}, files, ids)
    elif find_conflict(given, piece["params"], piece["record_id"]):
        tags[MLFLOW_PARENT_RUN_ID] = piece["run_id"]
        of_child = {"experiment_id": given.info.experiment_id, "tags": piece["tags"] | tags}
        send_run(client, {**piece, **of_child}, files, ids)
    else:
        client.set_tag(piece["run_id"], RECORD_TAG, piece["record_id"])
        ids.note(run_id=piece["run_id"])


def experiment_called(client: MlflowClient, name: str) -> str:
    """The id of an experiment, which is made if there is none of that name."""
    experiment = client.get_experiment_by_name(name)
    return experiment.experiment_id if experiment else client.create_experiment(name)


def send_params(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """The params that the run lacks. `mlflow run` logged its own, as typed, and MLflow lets none be changed.

    One that somebody logged with another value meanwhile is kept beside it, with a prefix.
    """
    run = client.get_run(ids["run_id"])
    differing = differing_params(run, piece["params"])
    named = {PREFIX + name if name in differing else name: value for name, value in piece["params"].items()}
    params = iter([Param(name, value) for name, value in named.items() if name not in run.data.params])
    while some := list(islice(params, PARAMS_AT_ONCE)):
        client.log_batch(ids["run_id"], params=some)


def send_tags(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    client.log_batch(ids["run_id"], tags=[RunTag(name, value) for name, value in piece["tags"].items()])


def send_metrics(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """Metrics of some steps, tied to their data and perhaps to the model. MLflow keeps equal points once.

    Its store in files forgets the step of a metric that is tied to data, and none would be a curve.
    """
    keeps_steps = urlsplit(mlflow.get_tracking_uri()).scheme not in ("", "file")
    client.log_batch(
        ids["run_id"],
        metrics=[
            Metric(
                name,
                value,
                at["time"],
                at["step"],
                model_id=ids["model_id"] if at["of_model"] else None,
                dataset_name=name_for_stores(data[0]) if data else None,
                dataset_digest=data[1] if data else None,
                run_id=ids["run_id"],
            )
            for at in piece["points"]
            for data in [at["dataset"] if keeps_steps else None]
            for name, value in at["values"].items()
        ],
    )


def send_input(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """A dataset as an input of the run, or of the model too."""
    dataset = Dataset(**{**piece["dataset"], "name": name_for_stores(piece["dataset"]["name"])})
    data = DatasetInput(dataset, [InputTag(DATASET_CONTEXT_TAG, piece["context"])])
    models = [LoggedModelInput(ids["model_id"])] if piece["of_model"] else None
    client.log_inputs(ids["run_id"], [data], models)


def send_files(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """Artifacts of the run. A table gets the tag that MLflow's UI looks for."""
    client.log_artifacts(ids["run_id"], str(files), piece["folder"] or None)
    if piece["tables"]:
        known = json.loads(client.get_run(ids["run_id"]).data.tags.get(TABLES_TAG, "[]"))
        own = [{"path": f"{piece['folder']}/{name}".lstrip("/"), "type": "table"} for name in piece["tables"]]
        client.set_tag(ids["run_id"], TABLES_TAG, json.dumps(known + [each for each in own if each not in known]))


def send_model(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """A logged model without files yet, to which metrics can be tied.

    MLflow ties a metric to a model and a dataset only at the moment when the metric is logged.
    """
    if not ids.get("model_id"):
        ids.note(model_id=model_of(client, ids["run_id"], MODEL_NAME, piece["id"]).model_id)


def model_of(client: MlflowClient, run_id: str, name: str, tag: str) -> LoggedModel:
    """The logged model of a run that has a name and a tag, by which it is found again; made if there is none."""
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    of_name = client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'")
    known = [model for model in of_name if model.tags.get(PIECE_TAG) == tag]
    if known:
        return known[0]
    return client.create_logged_model(
        experiment,
        name,
        run_id,
        tags=resolve_tags({PIECE_TAG: tag}),
        params=run.data.params,
        model_type="image-classifier",
    )


def send_model_files(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """The files of the model."""
    complete(client, ids["run_id"], client.get_logged_model(ids["model_id"]), files / MODEL_NAME, piece["step"])


def complete(client: MlflowClient, run_id: str, model: LoggedModel, folder: Path, step: int) -> None:
    """Gives a logged model the files in a folder. It is then ready, and an output of the run at a step."""
    description = Model.load(folder)
    description.model_id, description.run_id = model.model_id, model.source_run_id
    description.artifact_path = model.artifact_location
    description.save(folder / "MLmodel")
    client.log_model_artifacts(model.model_id, str(folder))
    digest = description.flavors[FLAVOR_NAME].get(MODEL_SHA256)  # not if it has waited since before there was one
    flavor.log_model_sha256(model, digest or read_model(folder).sha256)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = client.get_run(run_id).outputs
    known = [output.model_id for output in outputs.model_outputs] if outputs else []
    if model.model_id not in known:  # MLflow takes none a second time
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def send_epoch(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """The metrics of an epoch and a logged model of its weights, to which those are tied that are of data."""
    name = f"epoch-{piece['step']}"
    model = model_of(client, ids["run_id"], name, f"{ids['model_id']}/{name}")
    complete(client, ids["run_id"], model, files / MODEL_NAME, piece["step"])
    send_metrics(client, piece, files, ids)
    of_data = [at | {"of_model": True} for at in piece["points"] if at["dataset"]]
    send_metrics(client, {"points": of_data}, files, Notes(run_id=ids["run_id"], model_id=model.model_id))


def send_model_failed(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    if model_id := ids.get("model_id"):
        client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)


def send_version(client: MlflowClient, piece: Mapping[str, Any], files: Path, ids: Notes) -> None:
    """The model as a version in the registry, with alias, description and tags."""
    version = versions.register(f"models:/{ids['model_id']}", piece["name"])
    alias = piece["alias"] if piece["alias"] and aliases.set_unproven(version, piece["alias"]) else ""
    client.update_model_version(version.name, version.version, piece["description"])
    for name, value in piece["tags"].items():
        client.set_model_version_tag(version.name, version.version, name, value)
    ids.note(version=str(version.version), alias=alias)


def end_run(ids: Notes) -> None:
    """Tells the server how the run of these ids ended, and when."""
    client = MlflowClient()
    if run_id := ids.get("run_id"):
        client.set_terminated(run_id, ids.get("status", "KILLED"), ids.get("ended"))


def run_piece(name: str) -> dict[str, Any]:
    """What a run that is yet to be made on a server must know of now."""
    return {
        "name": name,
        "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default"),
        "experiment_id": os.environ.get("MLFLOW_EXPERIMENT_ID", ""),
        "time": now(),
        "tags": resolve_tags(),
    }


def now() -> int:
    """Milliseconds, as MLflow counts them."""
    return int(time.time() * 1000)


DELIVERIES: dict[str, Callable[[MlflowClient, Mapping[str, Any], Path, Notes], None]] = {
    "run": send_run,
    "given_run": send_given_run,
    "params": send_params,
    "tags": send_tags,
    "metrics": send_metrics,
    "epoch": send_epoch,
    "input": send_input,
    "files": send_files,
    "model": send_model,
    "model_files": send_model_files,
    "model_failed": send_model_failed,
    "version": send_version,
}
