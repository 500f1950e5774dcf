"""A saved model as it was read: the classifier, its exports, and one digest of everything that decides an answer.

The digest is computed from the very bytes that were loaded, never taken from what a file says about itself. It covers
what `classifier.json` says of architecture, classes in their order, preprocessing, temperature and checked precisions;
the weights; what was exported; and of MLmodel the signature (its columns, and the defaults of its params) and the
backend and precision that the model is configured for. What else is configured decides how fast an answer comes, and
on which device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow.models.model import MLMODEL_FILE_NAME

from mlflow_resnet.errors import InvalidModelError, TamperedModelError, TamperedWeightsError, join_names
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.model.backends.exported import Export, exports_sha256, read_exports
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prediction import PROBABILITY
from mlflow_resnet.model.storage import DATA_SUBPATH, read_classifier

FLAVOR_NAME = "mlflow_resnet"
PYFUNC = "python_function"  # `mlflow.pyfunc.FLAVOR_NAME`
MODEL_SHA256 = "model_sha256"  # of the flavor in MLmodel, and a param of the logged model
WEIGHTS_SHA256, EXPORTS_SHA256 = "weights_sha256", "exports_sha256"  # the params of models logged before that
DESCRIBED = ("architecture", "classes", "preprocessing", "temperature", "precision_checks", WEIGHTS_SHA256)
CONFIGURED = {"backend": "torch", "precision": "auto"}  # with what holds where nothing is said
SIGNED = {"inputs": ("name", "type"), "outputs": ("name", "type"), "params": ("name", "type", "default")}


@dataclass(frozen=True)
class StoredModel:
    """A model as read from its folder.

    Attributes:
        data: the folder with the files; what was exported is read from there when it is needed.
        exports: by format.
        config: as the model was saved.
        sha256: hexadecimal, of all that decides an answer, as it was read.
        weights_sha256: of the weights file, as it was read.
        model_id: of the logged model that it is, where a server says so; otherwise empty.
    """

    classifier: ImageClassifier
    data: Path
    exports: Mapping[str, Export]
    config: Mapping[str, Any]
    sha256: str
    weights_sha256: str
    model_id: str = ""


def read_model(folder: Path) -> StoredModel:
    """Reads a saved model, on the CPU and in eval mode.

    Raises InvalidModelError if it is no model of ours, or not what was saved, or a file does not fit the others.
    """
    mlmodel = read_mlmodel_fields(folder)
    data = folder / DATA_SUBPATH
    classifier, description = read_classifier(data)
    exports = read_exports(data)
    sha256 = compute_model_sha256(mlmodel, description, exports)
    recorded = str(mlmodel["flavors"][FLAVOR_NAME].get(MODEL_SHA256, ""))
    if recorded not in ("", sha256):
        raise TamperedModelError(str(folder), f"its {MLMODEL_FILE_NAME}", recorded, sha256)
    check_signature(mlmodel, classifier, folder)
    config = get_config(mlmodel)
    return StoredModel(classifier, data, exports, config, sha256, str(description[WEIGHTS_SHA256]))


def check_recorded(model: StoredModel, params: Mapping[str, str], model_id: str) -> None:
    """Raises TamperedModelError unless a model is what the params of its logged model say, which cannot be changed.

    Models that were logged before there was one digest have the sha256 of their weights and of their exports: these
    are compared as far as they go. A logged model with neither says nothing.
    """
    where = f"its logged model {model_id}"
    if MODEL_SHA256 in params:
        if params[MODEL_SHA256] != model.sha256:
            raise TamperedModelError(str(model.data.parent), where, params[MODEL_SHA256], model.sha256)
    elif WEIGHTS_SHA256 in params:
        if params[WEIGHTS_SHA256] != model.weights_sha256:
            raise TamperedWeightsError(str(model.data), params[WEIGHTS_SHA256], model.weights_sha256)
        if (found := exports_sha256(model.data)) != params.get(EXPORTS_SHA256, ""):
            raise TamperedWeightsError(str(model.data), params.get(EXPORTS_SHA256, "no exports"), found or "no exports")


def read_mlmodel_fields(folder: Path) -> dict[str, Any]:
    """Reads MLmodel as plain YAML, without defaults of MLflow's. Raises InvalidModelError if it is not one of ours."""
    try:
        fields = yaml.safe_load((folder / MLMODEL_FILE_NAME).read_text(encoding="utf-8"))
        flavors = {str(name): dict(flavor or {}) for name, flavor in fields["flavors"].items()}
    except Exception as error:  # YAML can be wrong in any way
        raise InvalidModelError(str(folder), f"not an MLflow model ({one_line(error)}).") from None
    if FLAVOR_NAME not in flavors:
        problem = f"its flavors are {', '.join(flavors)}; expected {FLAVOR_NAME}. MLflow itself loads it."
        raise InvalidModelError(str(folder), problem)
    if not isinstance(get_config({"flavors": flavors}), dict):
        raise InvalidModelError(str(folder), "its configuration is not names with values. Log it again.")
    return fields | {"flavors": flavors}


def get_config(mlmodel: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the configuration in MLmodel's fields."""
    return mlmodel["flavors"].get(PYFUNC, {}).get("config") or {}


def compute_model_sha256(
    mlmodel: Mapping[str, Any], description: Mapping[str, Any], exports: Mapping[str, Export]
) -> str:
    """Computes the digest of a stored model from `read_mlmodel_fields`, `classifier.json`, and what was exported.

    Fields that a later version adds are absent here and there, and change nothing.
    """
    config = get_config(mlmodel)
    facts = {
        "classifier": {name: description[name] for name in DESCRIBED if name in description},
        "exports": {name: asdict(export) for name, export in exports.items()},
        "config": {name: config.get(name) or default for name, default in CONFIGURED.items()},
        "signature": {
            part: [{name: each.get(name) for name in names} for each in read_signature_columns(mlmodel, part)]
            for part, names in SIGNED.items()
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_signature_columns(mlmodel: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """The inputs, outputs or params of the signature. Raises InvalidModelError if it cannot be read."""
    try:
        columns = json.loads((mlmodel.get("signature") or {}).get(part) or "[]")
        return [dict(each) for each in columns]
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise InvalidModelError("model", f"its signature cannot be read ({one_line(error)}).") from None


def check_signature(mlmodel: Mapping[str, Any], classifier: ImageClassifier, folder: Path) -> None:
    """Raises InvalidModelError for a signature that promises columns of other classes, or in another order."""
    names = [str(column.get("name")) for column in read_signature_columns(mlmodel, "outputs")]
    promised = [name.removeprefix(PROBABILITY) for name in names if name.startswith(PROBABILITY)]
    if promised and promised != list(classifier.classes):
        found = f"has the classes {join_names(promised)}; its classifier {join_names(classifier.classes)}"
        problem = f"its signature {found}. Restore {MLMODEL_FILE_NAME}, or log the model again."
        raise InvalidModelError(str(folder), problem)
