"""Registering a model, resolving a model URI."""

from __future__ import annotations

import re
from collections.abc import Callable

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

from mlflow_resnet.errors import InvalidModelError
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.registry.abilities import MISSING_CODES, UNKNOWN_CODES

VERSION_URI = re.compile(r"models:/(?P<name>[^/]+?)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")
LOGGED_MODEL_URI = re.compile(r"models:/(?P<model_id>m-[^/@]+)")
MAX_COPIES = 20  # of copies, from a version to the logged model
EXISTS_CODES = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS")


def register(model_uri: str, name: str) -> ModelVersion:
    """Registers a logged model, or one among the artifacts of a run, as the next version of `name`.

    Unless it is one already.
    """
    if version := find_version(model_uri, name):
        return version
    if not RunsArtifactRepository.is_runs_uri(model_uri):
        return mlflow.register_model(model_uri, name)
    client = MlflowClient()  # mlflow.register_model would ask for logged models
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in EXISTS_CODES:
            raise
    run_id, _ = RunsArtifactRepository.parse_runs_uri(model_uri)
    return client.create_model_version(name, RunsArtifactRepository.get_underlying_uri(model_uri), run_id)


def find_version(model_uri: str, name: str) -> ModelVersion | None:
    """The version of `name` that the model is, after a training that was interrupted."""
    client = MlflowClient()
    if RunsArtifactRepository.is_runs_uri(model_uri):
        run_id, folder = RunsArtifactRepository.parse_runs_uri(model_uri)
        source = f"/{folder}"  # the rest is the server's own
    else:
        run_id, source = client.get_logged_model(model_uri.removeprefix("models:/")).source_run_id, model_uri
    versions = client.search_model_versions(f"run_id = '{run_id}'")  # not by name, which may have quotes in it
    return next((each for each in versions if each.name == name and (each.source or "").endswith(source)), None)


def resolve(model_uri: str) -> ModelVersion:
    """The registered version that `models:/name/3` or `models:/name@alias` means.

    Raises:
        InvalidModelError: if it has another form, or there is no such version.
    """
    match = VERSION_URI.fullmatch(model_uri)
    if not match:
        raise InvalidModelError(model_uri, "not a registered version; expected models:/<name>/<version>.")
    name, version, alias = match["name"], match["version"], match["alias"]
    try:
        if alias:
            return MlflowClient().get_model_version_by_alias(name, alias)
        return MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        problem = describe_failure(error)
        if alias and error.error_code in MISSING_CODES:
            problem = f"the registry has no aliases; give a version, such as models:/{name}/1."
        raise InvalidModelError(model_uri, problem) from None


def fetch_registered_model(name: str) -> RegisteredModel:
    """The registered model of this name.

    Raises:
        InvalidModelError: if there is none.
    """
    try:
        return MlflowClient().get_registered_model(name)
    except MlflowException as error:
        raise InvalidModelError(f"models:/{name}", describe_failure(error)) from None


def describe_failure(error: MlflowException) -> str:
    """Returns whether the registry knows no such thing, or could not be asked, in words."""
    failure = "not in the registry" if error.error_code in UNKNOWN_CODES else "the registry did not answer"
    return f"{failure} ({one_line(error)})."


def format_version_uri(version: ModelVersion) -> str:
    """`models:/name/3`, which never means another version, as an alias does."""
    return f"models:/{version.name}/{version.version}"


def are_same(one: ModelVersion, other: ModelVersion) -> bool:
    """Returns whether two versions of one model name are the same. If it was deleted and made again, its versions
    count from 1 again, but are not the same."""
    return (str(one.version), one.creation_timestamp) == (str(other.version), other.creation_timestamp)


def parse_alias(model_uri: str) -> str:
    """The alias in `models:/name@alias`; "" if there is none."""
    match = VERSION_URI.fullmatch(model_uri)
    return (match and match["alias"]) or ""


def find_logged_model(version: ModelVersion) -> LoggedModel | None:
    """The logged model that a version is, or is a copy of; None if it was registered from elsewhere."""
    origin = follow_copies(version, resolve)
    model_id = parse_model_id(origin.source) or origin.model_id
    return MlflowClient().get_logged_model(model_id) if model_id else None


def follow_copies(version: ModelVersion, find_version: Callable[[str], ModelVersion]) -> ModelVersion:
    """The version that was copied first, perhaps this one itself.

    Args:
        find_version: of a URI that `VERSION_URI` matches.

    Raises:
        InvalidModelError: if the copies have no end.
    """
    origin = version
    for _ in range(MAX_COPIES):
        source = origin.source or ""
        if not VERSION_URI.fullmatch(source):
            return origin
        origin = find_version(source)
    raise InvalidModelError(format_version_uri(version), "is a copy of copies without an end.")


def parse_model_id(source: str | None) -> str:
    """The id of the logged model that the source of a version is; "" if it is something else."""
    match = LOGGED_MODEL_URI.fullmatch(source or "")
    return match["model_id"] if match else ""
