"""Finds the logged model, whose params cannot be changed, of a URI or a downloaded folder.

A registered version leads to its logged model, and so does `runs:/…`. On a server without logged models both lead to
the run that has the model among its artifacts: its params cannot be changed either, and those of the model `NAME` are
called `….NAME`. A folder says what it is in two files: MLflow's client writes `registered_model_meta` into what it
downloads from the registry, after all else; MLmodel has the id of the logged model or of the run, but comes from the
store of artifacts. Where no server can be asked, nothing more is known than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import basename
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.artifact.utils.models import get_model_name_and_version

from mlflow_resnet.errors import InvalidModelError
from mlflow_resnet.io.console import say
from mlflow_resnet.io.parallel import within
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.registry.abilities import MISSING_CODES, Ability, has
from mlflow_resnet.registry.versions import (
    VERSION_URI,
    find_logged_model,
    follow_copies,
    format_version_uri,
    resolve,
)

Found = TypeVar("Found")
ANSWER_SECONDS = 10.0  # for which a server may be silent before a folder is loaded without it
NOT_FOUND = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


@dataclass(frozen=True)
class Binding:
    """A server's record of a model.

    Attributes:
        uri: where its files are; unlike an alias, this never means another model.
        version: None unless it is registered.
        model_id: of the logged model that it is; empty if it is none, or no server knows it.
        params: of that logged model, or of the run that has the model among its artifacts.
        owner: what has these params, in words.
        is_known: whether a server was asked; otherwise the folder itself may say what it is.
    """

    uri: str
    version: ModelVersion | None = None
    model_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    is_known: bool = True


def bind(model_uri: str) -> Binding:
    """Returns the server's record of the model of a URI.

    Raises:
        InvalidModelError: if it means no model.
    """
    scheme, netloc = urlparse(model_uri)[:2]
    if os.path.isdir(model_uri) or scheme not in ("models", "runs"):
        return Binding(model_uri, is_known=False)
    if netloc:
        problem = f"names the registry {netloc}; set MLFLOW_REGISTRY_URI to it, and leave it out here."
        raise InvalidModelError(model_uri, problem)
    try:
        if scheme == "runs":
            return bind_run(model_uri)
        if VERSION_URI.fullmatch(model_uri):
            return bind_version(resolve(model_uri))
        name, *number = get_model_name_and_version(MlflowClient(), model_uri)
        if number:
            return bind_version(MlflowClient().get_model_version(name, *number))
        return bind_logged(MlflowClient().get_logged_model(name))
    except InvalidModelError as error:
        raise error.about(model_uri) from None
    except Exception as error:  # MLflow, requests and databases share no base class
        raise InvalidModelError(model_uri, f"cannot be loaded ({one_line(error)}).") from None


def bind_version(version: ModelVersion) -> Binding:
    """A version from neither a logged model nor a run has no params that could be compared."""
    uri = format_version_uri(version)
    if logged := find_logged_model(version):
        return bind_logged(logged, uri, version)
    origin = follow_copies(version, resolve)
    run_id, source = origin.run_id or "", origin.source or ""
    run = find_source_run(run_id) if run_id and run_id in source else None
    return bind_artifacts(run, uri, basename(source), version) if run else Binding(uri, version)


def bind_logged(model: LoggedModel, uri: str = "", version: ModelVersion | None = None) -> Binding:
    params, owner = dict(model.params or {}), f"its logged model {model.model_id}"
    return Binding(uri or f"models:/{model.model_id}", version, model.model_id, params, owner)


def bind_artifacts(run: Run, uri: str, name: str, version: ModelVersion | None = None) -> Binding:
    """The model `name` among the artifacts of a run, where there are no logged models."""
    end = f".{name}"
    params = {key.removesuffix(end): value for key, value in run.data.params.items() if key.endswith(end)}
    return Binding(uri, version, params=params, owner=f"its run {run.info.run_id}", is_known=bool(version or params))


def find_source_run(run_id: str) -> Run | None:
    """The run; None if there is no tracking server that knows it."""
    if not can_ask(mlflow.get_tracking_uri()):
        return None
    try:
        return MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code == NOT_FOUND:
            return None
        raise


def bind_run(model_uri: str) -> Binding:
    """The logged model that `runs:/<run>/<name>` means; a folder among the run's artifacts if there is none."""
    run_id, _, name = urlparse(model_uri).path.strip("/").partition("/")
    run = MlflowClient().get_run(run_id)
    if not has(Ability.LOGGED_MODELS, is_told=False):  # of which MLflow would ask, to download this URI
        return bind_artifacts(run, RunsArtifactRepository.get_underlying_uri(model_uri), name)
    token = None
    while True:  # the first one that is found, as MLflow does
        page = MlflowClient().search_logged_models([run.info.experiment_id], page_token=token)
        for model in page:
            if (model.source_run_id, model.name) == (run_id, name):
                return bind_logged(model)
        if not (token := page.token):
            return bind_artifacts(run, model_uri, name)


def bind_folder(folder: Path) -> Binding:
    """Returns the server's record of the model in a folder, if a server can be asked.

    Raises:
        InvalidModelError: if what the folder says of itself cannot be read, or the server cannot say what it knows.
    """
    unbound = Binding(str(folder), is_known=False)
    meta, mlmodel = (read_fields(folder / name) for name in (REGISTERED_MODEL_META_FILE_NAME, MLMODEL_FILE_NAME))
    name, number = meta.get("model_name"), meta.get("model_version")
    model_id, run_id, path = (str(mlmodel.get(key) or "") for key in ("model_id", "run_id", "artifact_path"))
    if name and number:
        if can_ask(mlflow.get_registry_uri()):
            version = answer_to(lambda: MlflowClient().get_model_version(str(name), str(number)), folder)
            if version:
                return answer_to(lambda: bind_version(version), folder, may_be_unknown=False) or unbound
    elif model_id and can_ask(mlflow.get_tracking_uri()):
        model = answer_to(lambda: MlflowClient().get_logged_model(model_id), folder)
        return bind_logged(model, str(folder)) if model else unbound
    elif run_id and path and can_ask(mlflow.get_tracking_uri()):
        run = answer_to(lambda: MlflowClient().get_run(run_id), folder)
        return bind_artifacts(run, str(folder), path) if run else unbound
    return unbound


def read_fields(path: Path) -> dict[str, Any]:
    """Reads a YAML file; empty if it does not exist.

    Raises:
        InvalidModelError: if it cannot be read.
    """
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except Exception as error:  # YAML can be wrong in any way
        raise InvalidModelError(str(path), f"cannot be read ({one_line(error)}). Download the model again.") from None


def can_ask(uri: str) -> bool:
    """Returns whether asking `uri` would reach an existing server or store, without creating one."""
    if uri.startswith("sqlite:///"):
        return os.path.exists(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))
    parsed = urlparse(uri)
    return parsed.scheme not in ("", "file") or os.path.isdir(unquote(parsed.path))


def answer_to(ask: Callable[[], Found], folder: Path, may_be_unknown: bool = True) -> Found | None:
    """Returns the server's answer about the model in a folder; None if unknown or unreachable.

    Raises:
        InvalidModelError: if it answers, but not with what was asked.
    """
    try:
        return within(ANSWER_SECONDS, ask)
    except InvalidModelError:
        raise
    except Exception as error:  # requests, databases and MLflow share no base class
        if isinstance(error, MlflowException) and error.error_code in (NOT_FOUND, *MISSING_CODES) and may_be_unknown:
            return None
        if isinstance(error, RestException) or not may_be_unknown:
            problem = f"the server does not say what model this is ({one_line(error)}). Ask it again later."
            raise InvalidModelError(str(folder), problem) from None
        say(f"{folder}: loaded without asking what its server knows of it ({one_line(error)})")
        return None
