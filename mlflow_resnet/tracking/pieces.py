"""The pieces that a run's record consists of, and how each reaches the tracking server.

A piece is a few facts that JSON can hold, and perhaps a folder of files, so that it can wait on a disk. Delivered
twice, it leaves the same as delivered once, because after a kill nobody knows whether the server had received it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient, entities
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from yaml.representer import RepresenterError

from mlflow_resnet import flavor
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.parallel import batch_items
from mlflow_resnet.io.text.characters import all_encodable
from mlflow_resnet.io.text.credentials import all_without_credentials
from mlflow_resnet.io.untrusted import build_record, shorten_value
from mlflow_resnet.mlflow_seams import DATASET_CONTEXT_TAG, TABLES_TAG
from mlflow_resnet.registry import aliases, versions
from mlflow_resnet.registry.abilities import Ability, attempt, has, has_aliases
from mlflow_resnet.tracking.dataset import name_for_stores
from mlflow_resnet.tracking.run import (
    MODEL_NAME,
    RECORD_TAG,
    find_conflict,
    find_differing_params,
    find_run,
    locate_model,
)

PARAMS_AT_ONCE = 100  # the most that MLflow takes
OWN_PREFIX = "mlflow_resnet."
DATA_TAG = "mlflow_resnet.data."  # of a run, with the context of a data set that cannot be an input: name and digest
PIECE_TAG = "mlflow_resnet.piece"  # by which a run or a model is found again, if its id was lost with the answer


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a run's record."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        """Sends the piece with what is in `files`, and notes in `ids` what the server calls it. Raises any error."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Returns what is kept on disks: text that every server takes, without credentials."""
        return for_servers(asdict(self)) | {"kind": KIND_NAMES[type(self)]}


def parse_piece(facts: Mapping[str, Any]) -> Piece:
    """Undoes `Piece.to_json`, also for what earlier versions wrote.

    Raises:
        ValueError: unless it is of a kind, has what that kind needs, and names no folder elsewhere.
    """
    given = for_servers(dict(facts))
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in PIECE_KINDS:
        raise ValueError(f"kind is {shorten_value(kind)}; expected one of {', '.join(PIECE_KINDS)}")
    if "id" not in given:
        raise ValueError("id is missing")
    if isinstance(given.get("points"), list):
        given["points"] = [build_record(Point, point) for point in given["points"]]
    return build_record(PIECE_KINDS[kind], given)


def for_servers(facts: dict[str, Any]) -> dict[str, Any]:
    """Options and addresses may hold credentials, and names of files any bytes."""
    return all_without_credentials(all_encodable(facts))


@dataclass(frozen=True, kw_only=True)
class RunPiece(Piece):
    """A run for a training that began without a server, as it was when it began."""

    name: str
    experiment: str
    experiment_id: str
    time: int
    tags: dict[str, str]

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        if not ids.get("run_id"):
            ids.note(run_id=self.find_or_create(client))

    def find_or_create(self, client: MlflowClient) -> str:
        """Returns the id of the run that has this piece's id as a tag."""
        experiment_id = self.experiment_id
        if not experiment_id:
            found = client.get_experiment_by_name(self.experiment)
            experiment_id = found.experiment_id if found else client.create_experiment(self.experiment)
        known = client.search_runs([experiment_id], f"tags.`{PIECE_TAG}` = '{self.id}'", max_results=1)
        tags = self.tags | {PIECE_TAG: self.id}
        run = known[0] if known else client.create_run(experiment_id, self.time, tags, self.name)
        return str(run.info.run_id)


@dataclass(frozen=True, kw_only=True)
class GivenRunPiece(RunPiece):
    """The run that was given to a training without a server, a child of it if it holds another, a new one if none.

    Only the server can tell which.
    """

    run_id: str
    record_id: str
    params: dict[str, str]

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        if ids.get("run_id"):
            return
        given, tags = find_run(self.run_id), self.tags | {RECORD_TAG: self.record_id}
        if given is None or given.info.lifecycle_stage != entities.LifecycleStage.ACTIVE:
            ids.note(run_id=replace(self, tags=tags).find_or_create(client))
        elif find_conflict(given, self.params, self.record_id):
            tags[MLFLOW_PARENT_RUN_ID] = self.run_id
            child = replace(self, experiment_id=given.info.experiment_id, tags=tags)
            ids.note(run_id=child.find_or_create(client))
        else:
            client.set_tag(self.run_id, RECORD_TAG, self.record_id)
            ids.note(run_id=self.run_id)


@dataclass(frozen=True, kw_only=True)
class ParamsPiece(Piece):
    """The params that the run lacks. `mlflow run` logged its own, as typed, and MLflow lets none be changed.

    One that somebody logged with another value meanwhile is kept beside it, with a prefix.
    """

    params: dict[str, str]

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        run = client.get_run(ids["run_id"])
        differing = find_differing_params(run, self.params)
        named = {OWN_PREFIX + name if name in differing else name: value for name, value in self.params.items()}
        params = [entities.Param(name, value) for name, value in named.items() if name not in run.data.params]
        for some in batch_items(params, PARAMS_AT_ONCE):
            client.log_batch(ids["run_id"], params=some)


@dataclass(frozen=True, kw_only=True)
class TagsPiece(Piece):
    """Tags of the run."""

    tags: dict[str, str]

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        client.log_batch(ids["run_id"], tags=[entities.RunTag(name, value) for name, value in self.tags.items()])


@dataclass(frozen=True)
class Point:
    """Metrics at a step and a time, in milliseconds since 1970.

    Attributes:
        dataset: name and digest of the images that they are of; None: of none.
        of_model: whether they are of the model that is kept.
    """

    values: dict[str, float]
    step: int
    time: int
    dataset: list[str] | None
    of_model: bool

    def __post_init__(self) -> None:
        if self.dataset is not None and len(self.dataset) != 2:
            raise ValueError("a point's dataset is no name and digest")


@dataclass(frozen=True, kw_only=True)
class MetricsPiece(Piece):
    """Metrics of some steps, tied to their data and perhaps to the model."""

    points: list[Point]

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        model_id = ids["model_id"] if any(point.of_model for point in self.points) else None
        log_points(client, self.points, ids["run_id"], model_id)


@dataclass(frozen=True, kw_only=True)
class EpochPiece(MetricsPiece):
    """Sends the metrics of an epoch and a logged model of its weights."""

    step: int

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        name = f"epoch-{self.step}"
        if not ids["model_id"]:
            flavor.log_artifacts(ids["run_id"], files / MODEL_NAME, name)
            super().send(client, files, ids)
            return
        model = find_or_create_model(client, ids["run_id"], name, f"{ids['model_id']}/{name}")
        complete_model(client, ids["run_id"], model, files / MODEL_NAME, self.step)
        super().send(client, files, ids)
        of_data = [replace(point, of_model=True) for point in self.points if point.dataset]
        log_points(client, of_data, ids["run_id"], model.model_id)


@dataclass(frozen=True, kw_only=True)
class InputPiece(Piece):
    """A dataset as an input of the run, or of the model too."""

    dataset: dict[str, str]
    context: str
    of_model: bool

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        dataset = entities.Dataset(**{**self.dataset, "name": name_for_stores(self.dataset["name"])})
        data = entities.DatasetInput(dataset, [entities.InputTag(DATASET_CONTEXT_TAG, self.context)])
        models = [entities.LoggedModelInput(ids["model_id"])] if self.of_model and ids["model_id"] else None
        if not attempt(Ability.INPUTS, lambda: client.log_inputs(ids["run_id"], [data], models)):
            client.set_tag(ids["run_id"], DATA_TAG + self.context, f"{dataset.name} {dataset.digest}")


@dataclass(frozen=True, kw_only=True)
class FilesPiece(Piece):
    """Artifacts of the run. A table gets the tag that MLflow's UI looks for."""

    folder: str
    tables: list[str]

    def __post_init__(self) -> None:
        place = PurePosixPath(self.folder)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"folder {shorten_value(self.folder)} leads out of the artifacts of the run")

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        client.log_artifacts(ids["run_id"], str(files), self.folder or None)
        if self.tables:
            known = json.loads(client.get_run(ids["run_id"]).data.tags.get(TABLES_TAG, "[]"))
            own = [{"path": f"{self.folder}/{name}".lstrip("/"), "type": "table"} for name in self.tables]
            client.set_tag(ids["run_id"], TABLES_TAG, json.dumps(known + [each for each in own if each not in known]))


@dataclass(frozen=True, kw_only=True)
class ModelPiece(Piece):
    """A logged model without files yet, to which metrics can be tied, if the server has logged models.

    MLflow ties a metric to a model and a dataset only at the moment when the metric is logged.
    """

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        if ids.get("model_id"):
            return
        if has(Ability.LOGGED_MODELS):
            ids.note(model_id=find_or_create_model(client, ids["run_id"], MODEL_NAME, self.id).model_id)
        else:
            ids.note(model_id="")


@dataclass(frozen=True, kw_only=True)
class ModelFilesPiece(Piece):
    """The files of the model."""

    step: int

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        if not ids["model_id"]:
            flavor.log_artifacts(ids["run_id"], files / MODEL_NAME, MODEL_NAME)
            return
        model = client.get_logged_model(ids["model_id"])
        complete_model(client, ids["run_id"], model, files / MODEL_NAME, self.step)


@dataclass(frozen=True, kw_only=True)
class ModelFailedPiece(Piece):
    """The end of a logged model that gets no files."""

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        if model_id := ids.get("model_id"):
            client.finalize_logged_model(model_id, entities.LoggedModelStatus.FAILED)


@dataclass(frozen=True, kw_only=True)
class VersionPiece(Piece):
    """The model as a version in the registry, with alias, description and tags."""

    name: str
    alias: str
    description: str
    tags: dict[str, str]

    def send(self, client: MlflowClient, files: Path, ids: Notes) -> None:
        version = versions.register(locate_model(ids), self.name)
        takes_alias = self.alias and has_aliases(self.name, self.alias)
        alias = self.alias if takes_alias and aliases.set_unproven(version, self.alias) else ""
        try:
            client.update_model_version(version.name, version.version, self.description)
        except RepresenterError:  # MLflow 3.1 to 3.7, in ./mlruns: its YAML takes no version that has metrics
            say(f"version {version.version} of {version.name} has no description: this MLflow cannot keep one in files")
        attempt(Ability.VERSION_TAGS, lambda: tag_version(client, version, self.tags))
        ids.note(version=str(version.version), alias=alias)


PIECE_KINDS: dict[str, type[Piece]] = {
    "run": RunPiece,
    "given_run": GivenRunPiece,
    "params": ParamsPiece,
    "tags": TagsPiece,
    "metrics": MetricsPiece,
    "epoch": EpochPiece,
    "input": InputPiece,
    "files": FilesPiece,
    "model": ModelPiece,
    "model_files": ModelFilesPiece,
    "model_failed": ModelFailedPiece,
    "version": VersionPiece,
}
KIND_NAMES = {kind: name for name, kind in PIECE_KINDS.items()}


def log_points(client: MlflowClient, points: Sequence[Point], run_id: str, model_id: str | None) -> None:
    """Logs metrics, tied to their data and perhaps to the model. MLflow keeps equal points once.

    Its store in files forgets the step of a metric that is tied to data, and none would be a curve.
    """
    keeps_steps = urlsplit(mlflow.get_tracking_uri()).scheme not in ("", "file")
    metrics = []
    for at in points:
        tied = {"run_id": run_id, "model_id": model_id} if model_id and at.of_model else {}
        if at.dataset and keeps_steps and has(Ability.LOGGED_MODELS):
            tied |= {"dataset_name": name_for_stores(at.dataset[0]), "dataset_digest": at.dataset[1]}
        metrics += [entities.Metric(name, value, at.time, at.step, **tied) for name, value in at.values.items()]
    client.log_batch(run_id, metrics=metrics)


def find_or_create_model(client: MlflowClient, run_id: str, name: str, tag: str) -> entities.LoggedModel:
    """Returns the logged model of a run that has a name and a tag, by which it is found again."""
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    of_name = client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'")
    for model in of_name:
        if model.tags.get(PIECE_TAG) == tag:
            return model
    tags = resolve_tags({PIECE_TAG: tag})
    return client.create_logged_model(experiment, name, run_id, tags, run.data.params, "image-classifier")


def complete_model(client: MlflowClient, run_id: str, model: entities.LoggedModel, folder: Path, step: int) -> None:
    """Gives a logged model the files in a folder. It is then ready, and an output of the run at a step."""
    description = Model.load(folder)
    description.model_id, description.run_id = model.model_id, model.source_run_id
    description.artifact_path = model.artifact_location
    description.save(folder / "MLmodel")
    client.log_model_artifacts(model.model_id, str(folder))
    flavor.log_model_sha256(model, flavor.find_sha256(description, folder))
    client.finalize_logged_model(model.model_id, entities.LoggedModelStatus.READY)
    add_output(client, run_id, model.model_id, step)


def add_output(client: MlflowClient, run_id: str, model_id: str, step: int) -> None:
    """Makes a logged model an output of the run, unless it is; MLflow takes none a second time."""
    outputs = client.get_run(run_id).outputs
    if model_id not in ([output.model_id for output in outputs.model_outputs] if outputs else []):
        client.log_outputs(run_id, [entities.LoggedModelOutput(model_id, step)])


def tag_version(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        client.set_model_version_tag(version.name, version.version, name, value)


def end_run(ids: Notes) -> None:
    """Tells the server how the run of these ids ended, and when."""
    client = MlflowClient()
    if run_id := ids.get("run_id"):
        client.set_terminated(run_id, ids.get("status", "KILLED"), ids.get("ended"))


def now() -> int:
    """Milliseconds, as MLflow counts them."""
    return int(time.time() * 1000)
