"""The server's own facts about a version: its logged model, whose params cannot be changed."""

from __future__ import annotations

import ipaddress
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import flask
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.abstract_store import AbstractStore

from mlflow_resnet.mlflow_seams import USER_OF_REQUEST, get_servers_tracking_store, locate_artifact
from mlflow_resnet.registry.gate.decision import Proven
from mlflow_resnet.registry.versions import VERSION_URI, follow_copies, parse_model_id

DIGEST_PARAM = "model_sha256"  # a param that mlflow_resnet logs with every model
NOT_IN_A_USER_NAME = re.compile(r"[^\w.@+\- ]")


def find_request_user() -> str | None:
    """Returns the authenticated user of the request; None if the server has no users."""
    return flask.g.get(USER_OF_REQUEST) if flask.has_request_context() else None


def who() -> str:
    """Returns the sender of the request for messages: the user, or the address."""
    if not flask.has_request_context():
        return "somebody with access to the database"
    if name := find_request_user():
        return NOT_IN_A_USER_NAME.sub("?", name)
    claimed, found = ",".join(flask.request.headers.getlist("X-Forwarded-For")), flask.request.remote_addr or ""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return "somebody at an unknown address"
    return f"somebody at {address}{', as the header X-Forwarded-For says' * (found in claimed)}"


@dataclass(frozen=True)
class Description:
    """Content of the MLmodel file of a logged model."""

    model_id: str
    flavors: tuple[str, ...] = ()
    signature: bool = False


def describe_model(store: AbstractStore, name: str, version: int, tracking_uri: str | None) -> Description | None:
    """Reads the MLmodel file of a version, which takes long and so is done before the lock.

    None if it cannot be read, so that rules about it fail.
    """
    try:
        model = find_origin(store, name, version, tracking_uri)
    except MlflowException:
        return None
    try:
        repository, path = locate_artifact(model.artifact_location, "MLmodel")
        with tempfile.TemporaryDirectory() as folder:
            text = Path(repository.download_artifacts(path, folder)).read_text(encoding="utf-8")
        facts = dict(yaml.safe_load(text))
    except Exception:  # stores of artifacts share no base class of errors
        return None
    flavors = facts.get("flavors")
    names = tuple(map(str, flavors)) if isinstance(flavors, dict) else ()
    return Description(model.model_id, names, bool(facts.get("signature")))


def prove_version(
    store: AbstractStore, name: str, version: int, tracking_uri: str | None, description: Description | None = None
) -> Proven:
    """Follows a version to its logged model, whose params nobody can change.

    Args:
        description: of the MLmodel file, which counts if it is this logged model's.
    """
    try:
        model = find_origin(store, name, version, tracking_uri)
    except MlflowException as error:
        return Proven((f"its logged model is not to be had ({error.message})",))
    model_id, problems = model.model_id, []
    if model.status != LoggedModelStatus.READY:
        problems.append(f"its logged model {model_id} is {model.status}; expected READY")
    if store.get_model_version_download_uri(name, version) != model.artifact_location:
        problems.append(f"its files are not those of its logged model {model_id}; register that one")
    if DIGEST_PARAM not in model.params:
        problems.append(f"its logged model {model_id} has no param {DIGEST_PARAM}; log it with mlflow_resnet again")
    known = description if description and description.model_id == model_id else Description(model_id)
    digest, metrics = model.params.get(DIGEST_PARAM, ""), tuple(model.metrics or ())
    return Proven(tuple(problems), model_id, digest, metrics, known.flavors, known.signature)


def find_origin(store: AbstractStore, name: str, version: int, tracking_uri: str | None) -> LoggedModel:
    """The logged model that a version, or the version that it is a copy of, was registered from.

    Raises:
        MlflowException: if it was registered from something else, or the server's tracking store has no such model.
    """

    def find_version(uri: str) -> ModelVersion:
        match = VERSION_URI.fullmatch(uri)
        if not match or match["alias"]:  # an alias may mean another version by now
            raise build_foreign_source_error(uri)
        return store.get_model_version(match["name"], int(match["version"]))

    source = follow_copies(store.get_model_version(name, version), find_version).source or ""
    model_id = parse_model_id(source)
    if not model_id:
        raise build_foreign_source_error(source)
    if flask.has_request_context():
        return get_servers_tracking_store().get_logged_model(model_id)
    return MlflowClient(tracking_uri).get_logged_model(model_id)


def build_foreign_source_error(source: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(f"it is made from {source}; expected models:/<model id>")
