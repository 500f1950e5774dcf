"""A saved model: the classifier's two files, what was exported, and one digest of everything that decides an answer.

`model.safetensors` and `classifier.json`: no pickle, nothing downloaded, sha256 verified.

The digest is computed from the very bytes that were loaded, never taken from what a file says about itself. It covers
what `classifier.json` says of architecture, classes in their order, preprocessing, temperature and checked precisions;
the weights; what was exported; and of MLmodel the signature (its columns, and the defaults of its params) and the
backend and precision that the model is configured for. What else is configured decides how fast an answer comes, and
on which device.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import torch
import yaml
from mlflow.artifacts import download_artifacts
from mlflow.models.model import MLMODEL_FILE_NAME
from safetensors.torch import load, save

from mlflow_resnet.errors import InvalidModelError, TamperedModelError, TamperedWeightsError, join_names
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import MOST_JSON, build_record, check_fields, parse_fields, read_plain
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import build_network
from mlflow_resnet.model.precision import PrecisionCheck
from mlflow_resnet.model.prediction import PROBABILITY
from mlflow_resnet.model.preprocessing import Preprocessing

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # from Python 3.11 on

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "classifier.json"
DATA_SUBPATH = "data"  # of a saved MLflow model, where both files are
CODE_SUBPATH = "code"  # of a saved MLflow model, where MLflow puts code
PACKAGE_FILE = "mlflow_resnet.zip"  # this package, to be put on sys.path
FORMAT_VERSION = 2  # 1 had no temperature
READABLE = (1, 2)
DESCRIPTION_KINDS = {  # of the fields of DESCRIPTION_FILE
    "format_version": int,
    "architecture": str,
    "classes": list[str],
    "preprocessing": dict[str, Any],
    "temperature": float,
    "training": dict[str, Any],
    "precision_checks": dict[str, dict[str, Any]],
    "weights_sha256": str,
}
EXPORT_FILE = "export.json"
FLAVOR_NAME = "mlflow_resnet"
PYFUNC = "python_function"  # `mlflow.pyfunc.FLAVOR_NAME`
MODEL_SHA256 = "model_sha256"  # of the flavor in MLmodel, and a param of the logged model or, with its name, the run
WEIGHTS_SHA256, EXPORTS_SHA256 = "weights_sha256", "exports_sha256"  # the params of models logged before that
DESCRIBED = ("architecture", "classes", "preprocessing", "temperature", "precision_checks", WEIGHTS_SHA256)
CONFIGURED = {"backend": "torch", "precision": "auto"}  # with what holds where nothing is said
SIGNED = {"inputs": ("name", "type"), "outputs": ("name", "type"), "params": ("name", "type", "default")}


@contextlib.contextmanager
def fetch_model(model_uri: str) -> Iterator[Path]:
    """Yields the folder of an MLflow model; downloads are removed at the end. Raises InvalidModelError."""
    if os.path.isdir(model_uri):
        yield Path(model_uri)
        return
    # after Ctrl-C MLflow's threads may still write into it
    with tempfile.TemporaryDirectory(prefix="mlflow-resnet-", ignore_cleanup_errors=True) as folder:
        try:
            path = Path(download_artifacts(model_uri, dst_path=folder))
        except Exception as error:  # MLflow, botocore, requests and databases share no base class
            raise InvalidModelError(model_uri, f"cannot be loaded ({one_line(error)}).") from None
        yield path


def hash_file(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def digest_classifier(classifier: ImageClassifier) -> str:
    """Returns the hex sha256 of everything that decides a classifier's predictions."""
    facts = [classifier.architecture, classifier.classes, asdict(classifier.preprocessing), classifier.temperature]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for key, tensor in classifier.network.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()


def save_classifier(classifier: ImageClassifier, folder: str | os.PathLike[str]) -> str:
    """Writes both files into the existing `folder` and returns the sha256 of the weights file."""
    folder = Path(folder)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in classifier.network.state_dict().items()}
    content = save(tensors)
    (folder / WEIGHTS_FILE).write_bytes(content)  # safetensors would tell of a full disk in an error of its own
    sha256 = hashlib.sha256(content).hexdigest()
    write_description(classifier, folder, sha256)
    return sha256


def write_description(classifier: ImageClassifier, folder: Path, weights_sha256: str = "") -> None:
    """Writes `classifier.json`: all of a classifier but its weights, which may not be there."""
    description = {
        "format_version": FORMAT_VERSION,
        "architecture": classifier.architecture,
        "classes": list(classifier.classes),
        "preprocessing": asdict(classifier.preprocessing),
        "temperature": classifier.temperature,
        "training": dict(classifier.training),
        "precision_checks": {name: asdict(check) for name, check in classifier.precision_checks.items()},
        "weights_sha256": weights_sha256,
        "torch_version": torch.__version__,
    }
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_description(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `classifier.json`. Raises InvalidModelError if it is missing, damaged, or of a newer version."""
    try:
        description = parse_fields(read_plain(Path(folder) / DESCRIPTION_FILE, MOST_JSON, follow=True))
        found = description["format_version"]
        if found in READABLE:
            check_fields(description, DESCRIPTION_KINDS)
            "".join(description["classes"]).encode()  # files and answers cannot hold what is no text
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidModelError(str(folder), f"no readable {DESCRIPTION_FILE} ({one_line(error)}).") from None
    if found not in READABLE:
        raise InvalidModelError(
            str(folder),
            f"{DESCRIPTION_FILE} has format version {found}, but this mlflow_resnet reads up to {FORMAT_VERSION}. "
            "Install the mlflow_resnet that saved the model, or log it again.",
        )
    return description


def read_classifier(folder: str | os.PathLike[str]) -> tuple[ImageClassifier, dict[str, Any]]:
    """Reads what `save_classifier` wrote, on the CPU and in eval mode, and the description that it was made from.

    Raises TamperedWeightsError if the weights are not those that were saved; InvalidModelError if a file is missing or
    damaged, or does not fit the other.
    """
    folder = Path(folder)
    description = read_description(folder)
    try:
        path, expected = folder / WEIGHTS_FILE, description["weights_sha256"]
        if not path.is_file():
            raise InvalidModelError(str(folder), f"{WEIGHTS_FILE} is missing. Log the model again.")
        content = path.read_bytes()  # verified and loaded as it was read
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise TamperedWeightsError(str(path), expected, found)
        classes, fields = tuple(description["classes"]), description["preprocessing"]
        preprocessing = Preprocessing(**fields | {key: tuple(fields[key]) for key in ("mean", "std")})
        network = build_network(description["architecture"], len(classes)).eval()
        network.load_state_dict(load(content))
        classifier = ImageClassifier(
            description["architecture"],
            classes,
            preprocessing,
            network,
            float(description.get("temperature", 1.0)),
            description.get("training", {}),
            {name: PrecisionCheck(**found) for name, found in description.get("precision_checks", {}).items()},
        )
    except InvalidModelError:
        raise
    except Exception as error:  # JSON can be wrong in any way; safetensors and torch have errors of their own
        problem = f"{DESCRIPTION_FILE} is damaged or does not fit {WEIGHTS_FILE} ({one_line(error)}). "
        raise InvalidModelError(str(folder), problem + "Restore both, or log the model again.") from None
    return classifier, description


@dataclass(frozen=True)
class Export:
    """What `export.json` says of a folder of exported files of one format.

    Attributes:
        format: a backend's name, or torch_export.
        precision: fp32, bf16 or int8.
        classifier_sha256: `digest_classifier` of the one that was exported.
        files: hex sha256 of each file, by its name.
    """

    format: str
    precision: str
    classifier_sha256: str
    files: Mapping[str, str]


def write_export(folder: Path, kind: str, precision: str, classifier_sha256: str) -> None:
    """Describes the files that are in `folder`."""
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    export = Export(kind, precision, classifier_sha256, files)
    (folder / EXPORT_FILE).write_text(json.dumps(asdict(export), indent=2) + "\n", encoding="utf-8")


def read_export(folder: str | os.PathLike[str]) -> Export:
    """What `export.json` says. Raises InvalidModelError if it cannot be read."""
    try:
        return build_record(Export, parse_fields(read_plain(Path(folder) / EXPORT_FILE, MOST_JSON, follow=True)))
    except (OSError, ValueError) as error:
        raise InvalidModelError(str(folder), f"no readable {EXPORT_FILE} ({one_line(error)}).") from None


def read_exports(data: Path) -> dict[str, Export]:
    """Returns the exports in a model's data folder, by folder name. Raises InvalidModelError if one cannot be read."""
    return {path.parent.name: read_export(path.parent) for path in sorted(data.glob(f"*/{EXPORT_FILE}"))}


def read_verified_files(folder: Path, export: Export) -> dict[str, bytes]:
    """The content of the exported files, by name. Raises InvalidModelError if one is missing, or not what it was."""
    contents = {}
    for name, expected in export.files.items():
        try:
            content = (folder / os.path.basename(name)).read_bytes()
        except OSError:
            raise InvalidModelError(str(folder / name), "missing. Export the model again.") from None
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise TamperedWeightsError(str(folder / name), expected, found)
        contents[name] = content
    return contents


def copy_export(source: Path, data: Path) -> None:
    """Copies what was exported to `source` into a folder of its format in `data`, and verifies it."""
    export = read_export(source)
    contents = read_verified_files(source, export)
    folder = data / os.path.basename(export.format)
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / EXPORT_FILE).write_bytes((source / EXPORT_FILE).read_bytes())


def exports_sha256(data: Path) -> str:
    """Hex sha256 of all exports in a model's data folder, as older models were logged with; empty if there are none."""
    files = sorted(data.glob(f"*/{EXPORT_FILE}"))
    digests = [f"{path.parent.name} {hash_file(path)}" for path in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if digests else ""


@cache
def pack_package() -> bytes:
    """Returns this package as a ZIP archive that Python imports from, the same bytes every time.

    There is no bytecode in it: that would serve one version of Python only, at three times the size.
    """
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        for name, source in list_sources(files("mlflow_resnet"), "mlflow_resnet"):
            entry = ZipInfo(name)  # of 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix
            archive.writestr(entry, source, ZIP_DEFLATED)
    return content.getvalue()


def list_sources(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every file below a folder of packages, which may lie in an archive itself."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file():
            yield f"{name}/{entry.name}", entry.read_bytes()
        elif entry.name != "__pycache__":
            yield from list_sources(entry, f"{name}/{entry.name}")


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


def check_recorded(model: StoredModel, params: Mapping[str, str], owner: str) -> None:
    """Raises TamperedModelError unless a model is what the params of its `owner` say, which cannot be changed.

    Models that were logged before there was one digest have the sha256 of their weights and of their exports: these
    are compared as far as they go. A logged model with neither says nothing.
    """
    if MODEL_SHA256 in params:
        if params[MODEL_SHA256] != model.sha256:
            raise TamperedModelError(str(model.data.parent), owner, params[MODEL_SHA256], model.sha256)
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
