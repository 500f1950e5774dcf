"""A classifier on disk: `model.safetensors` and `classifier.json`. No pickle, nothing downloaded, sha256 verified."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mlflow.artifacts import download_artifacts
from safetensors.torch import load, save

from mlflow_resnet.errors import InvalidModelError, TamperedWeightsError
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import MOST_JSON, check_fields, parse_fields, read_plain
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import build_network
from mlflow_resnet.model.precision import PrecisionCheck
from mlflow_resnet.model.preprocessing import Preprocessing

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "classifier.json"
DATA_SUBPATH = "data"  # of a saved MLflow model, where both files are
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
        content = read_weights(folder / WEIGHTS_FILE, description["weights_sha256"])
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


def read_weights(path: Path, expected: str) -> bytes:
    """The content of the file at `path`. Raises TamperedWeightsError unless its sha256 is `expected`."""
    if not path.is_file():
        raise InvalidModelError(str(path.parent), f"{path.name} is missing. Log the model again.")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise TamperedWeightsError(str(path), expected, found)
    return content
