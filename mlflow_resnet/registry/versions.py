"""Registering a logged model, resolving a model URI."""

from __future__ import annotations

import re

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from mlflow_resnet.errors import InvalidModelError

VERSION_URI = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")


def register(model_uri: str, name: str, alias: str = "") -> ModelVersion:
    """Registers a logged model as the next version of `name`, unless it is one already, and sets `alias` on it."""
    version = version_of(model_uri, name) or mlflow.register_model(model_uri, name)
    if alias:
        MlflowClient().set_registered_model_alias(name, alias, version.version)
    return version


def version_of(model_uri: str, name: str) -> ModelVersion | None:
    """The version of `name` that the logged model is, after a training that was interrupted."""
    client = MlflowClient()
    run_id = client.get_logged_model(model_uri.removeprefix("models:/")).source_run_id
    versions = client.search_model_versions(f"run_id = '{run_id}'")  # not by name, which may have quotes in it
    return next((each for each in versions if (each.name, each.source) == (name, model_uri)), None)


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
        raise InvalidModelError(model_uri, f"not in the registry ({error.message}).") from None


def registered_model(name: str) -> RegisteredModel:
    """The registered model of this name.

    Raises:
        InvalidModelError: if there is none.
    """
    try:
        return MlflowClient().get_registered_model(name)
    except MlflowException as error:
        raise InvalidModelError(f"models:/{name}", f"not in the registry ({error.message}).") from None


def version_at(name: str, alias: str) -> ModelVersion | None:
    """The version that `alias` points to, if any."""
    version = MlflowClient().get_registered_model(name).aliases.get(alias)
    return MlflowClient().get_model_version(name, str(version)) if version else None
