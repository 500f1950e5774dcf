"""A registered version, measured, verified, loaded and tried, before it answers.

With `--follow` it is loaded in the process that serves another one, so what its files say is not believed: whether it
fits into memory is checked first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.pyfunc import PyFuncModel

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError
from mlflow_resnet.io.memory import available_memory, size_in_words
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.model.prediction import PROBABILITY
from mlflow_resnet.model.storage import (
    DATA_SUBPATH,
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    fetch_model,
    get_config,
    read_description,
    read_mlmodel_fields,
)
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.metric_names import HEADLINE
from mlflow_resnet.registry.binding import bind
from mlflow_resnet.registry.versions import format_version_uri
from mlflow_resnet.scoring.columns import ERROR
from mlflow_resnet.scoring.configuration import (
    DEFAULT_MODEL_CONFIG,
    configure_model,
    read_limited,
    read_operators_configuration,
    read_positive,
)
from mlflow_resnet.scoring.loading import read_verified
from mlflow_resnet.scoring.over_http import guard
from mlflow_resnet.scoring.pyfunc import ScoringModel
from mlflow_resnet.serving.monitoring import count_batch

NUMBERS = tuple(f"{part}_{name}" for part in ("test", "val") for name in HEADLINE)  # tags that a training sets
SUM_TOLERANCE = 1e-3  # float32 over many classes
MAX_TEXT_BYTES = 16 * 2**20  # of MLmodel, classifier.json and the like, which parsers make many times as large
MAX_YAML_EVENTS = 10_000  # of MLmodel: values, and beginnings and ends of lists
LARGEST_IMAGE_SIZE = 2048  # pixels of each side that a network may see
MODEL_COPIES = 3  # of the weights, while they are loaded
BYTES_PER_INPUT_PIXEL = 500  # that a network takes for a batch: 150 (resnet18) to 440 (resnet50) were measured
BYTES_PER_CLASS = 512  # of the weights at least: inputs of the smallest last layer, one byte each


@dataclass(frozen=True)
class ServedVersion:
    """A version that can answer.

    Attributes:
        model_id: of the logged model that the version is; "" if it is none.
        model_sha256: of all that decides its answers, as it was loaded and verified.
        since: when it was ready, UTC.
        max_images: that a request may have.
        model: what predicts, in memory as long as this refers to it.
    """

    version: ModelVersion
    model_id: str
    model_sha256: str
    since: str
    max_images: int
    model: ScoringModel

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.get_raw_model().classes

    @property
    def uri(self) -> str:
        return format_version_uri(self.version)

    @property
    def labels(self) -> tuple[str, str, str, str]:
        """What metrics tell of it: name, version, logged model and digest."""
        return self.version.name, str(self.version.version), self.model_id, self.model_sha256

    @property
    def headers(self) -> dict[str, str]:
        """Headers that name the version in an answer. Header values are ASCII, so the name is percent-encoded."""
        named = {"X-Model-Name": quote(self.version.name), "X-Model-Version": str(self.version.version)}
        return named | ({"X-Model-Id": self.model_id} if self.model_id else {})

    def facts(self) -> dict[str, Any]:
        """Returns the version's part of the answer to `/model`."""
        tags = self.version.tags
        return {
            "name": self.version.name,
            "version": str(self.version.version),
            "model_id": self.model_id or None,
            "model_sha256": self.model_sha256,
            "since": self.since,
            "classes": list(self.classes),
            "numbers": {name: tags[name] for name in NUMBERS if name in tags},
        }


def load_version(model_uri: str, device: str = AUTO) -> ServedVersion:
    """Downloads, verifies, loads and tries the registered version `model_uri`. The download is removed.

    Of the version only data is used, no code that travels with it: it is predicted with what is installed here.

    Raises:
        InvalidModelError: if it cannot be served, whatever the reason.
        InvalidOptionsError: if there is no such device.
    """
    try:
        known = bind(model_uri)
        if known.version is None:
            raise InvalidModelError(model_uri, "not a registered version; expected models:/<name>/<version>.")
        with fetch_model(known.uri) as path:
            config = read_configuration(path, device)
            check_fits(path, config)
            stored, metadata = read_verified(path, known), flavor.read_mlmodel(str(path))
            scoring = configure_model(stored, config)
            model = PyFuncModel(metadata, scoring, model_id=known.model_id or None)
            with contextlib.suppress(Exception):  # without it, a picture of our own is tried
                model.input_example = metadata.load_input_example(str(path))
        os.environ[guard.SERVING] = "true"  # from here on predict takes what it takes over HTTP
        try_out(model)
        scoring.watch_batches(count_batch)
    except InvalidOptionsError:
        raise
    except InvalidModelError as error:
        raise error.about(model_uri) from None  # not with the path of the download
    except Exception as error:  # MLflow, torch, databases and disks share no base class
        raise InvalidModelError(model_uri, f"cannot be served ({one_line(error)}).") from None
    max_images = read_positive(config, "max_images_per_request")
    return ServedVersion(known.version, known.model_id, stored.sha256, utc_now(), max_images, scoring)


def read_configuration(path: Path, device: str) -> dict[str, Any]:
    """Returns how to serve a downloaded model: as MLmodel says, unless the operator says otherwise."""
    check_texts(path)
    saved = dict(get_config(read_mlmodel_fields(path)))
    chosen = {} if device == AUTO else {"device": device}
    return DEFAULT_MODEL_CONFIG | saved | read_operators_configuration() | chosen


def check_texts(path: Path) -> None:
    """Raises InvalidModelError if a file of a downloaded model that will be parsed is too large or heavy for that.

    MLmodel must be YAML, and no more once it is loaded than a model needs.
    """
    for file in path.rglob("*"):
        is_text = file.name == MLMODEL_FILE_NAME or file.suffix in (".json", ".yaml", ".txt")
        if is_text and file.is_file() and (size := file.stat().st_size) > MAX_TEXT_BYTES:
            limit = size_in_words(MAX_TEXT_BYTES)
            raise InvalidModelError("", f"{file.name} has {size_in_words(size)}, over the limit of {limit}.")
    try:
        with open(path / MLMODEL_FILE_NAME, "rb") as opened:
            for count, event in enumerate(yaml.parse(opened, getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
                if count > MAX_YAML_EVENTS or isinstance(event, yaml.AliasEvent):
                    raise InvalidModelError("", f"its {MLMODEL_FILE_NAME} is not what MLflow writes.")
    except (OSError, ValueError, yaml.YAMLError):
        raise InvalidModelError("", f"its {MLMODEL_FILE_NAME} cannot be read.") from None


def check_fits(path: Path, config: Mapping[str, Any]) -> None:
    """Makes sure that a downloaded model can be loaded and warmed up in the memory that there is.

    Args:
        config: what its MLmodel says of how it is served.

    Raises:
        InvalidModelError: if it cannot, claims what cannot be, or is configured for more than it may.
    """
    data = path / DATA_SUBPATH
    sizes = [file.stat().st_size for file in data.rglob("*") if file.is_file()]
    side, classes = read_shape(read_description(data))
    weights = data / WEIGHTS_FILE
    if classes * BYTES_PER_CLASS > (weights.stat().st_size if weights.is_file() else 0):
        raise InvalidModelError("", f"its weights are too small for the {classes} classes that it claims.")
    if not 1 <= side <= LARGEST_IMAGE_SIZE:
        raise InvalidModelError("", f"looks at images of {side} pixels; expected 1 to {LARGEST_IMAGE_SIZE}.")
    try:
        config = DEFAULT_MODEL_CONFIG | dict(config)
        batch = max(read_limited(config, name) for name in ("batch_size", "max_batch_size"))
    except InvalidOptionsError as error:
        raise InvalidModelError("", f"{error.message}.") from None
    needed = MODEL_COPIES * sum(sizes) + batch * side**2 * BYTES_PER_INPUT_PIXEL
    if needed > (available := available_memory()):
        problem = f"needs about {size_in_words(needed)} of memory, and {size_in_words(available)} are free"
        raise InvalidModelError("", f"{problem}. Serve it on a larger machine, or with a smaller max_batch_size.")


def read_shape(description: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the image size and the number of classes in a description."""
    try:
        fields = description["preprocessing"]
        side = int(fields["crop_size"]) + 2 * int(fields.get("padding", 0))
        return side, len(description["classes"])
    except (LookupError, TypeError, ValueError, OverflowError):
        raise InvalidModelError("", f"{DESCRIPTION_FILE} does not describe a classifier.") from None


def try_out(model: PyFuncModel) -> None:
    """Predicts on the model's own input example, or on a picture made here if that cannot be read over HTTP.

    Raises:
        InvalidModelError: if the answer is not what the signature says, or no finite probabilities that add up to 1.
            The caller names it.
    """
    examples, errors = [flavor.default_input_example()], ""
    if model.input_example is not None:
        examples.insert(0, model.input_example)
    for example in examples:
        frame = pd.DataFrame(model.predict(example))
        signature = model.metadata.get_output_schema()
        if signature and list(frame.columns) != signature.input_names():
            raise InvalidModelError("", f"answers with columns {list(frame.columns)}, not those of its signature.")
        read = frame[frame[ERROR] == ""]
        if len(read):
            sums = read.filter(like=PROBABILITY).to_numpy(np.float64).sum(axis=1)
            if not (np.abs(sums - 1) <= SUM_TOLERANCE).all():  # a NaN fails too
                raise InvalidModelError("", f"probabilities of its input example add up to {sums[0]:g}, not to 1.")
            return
        errors = one_line(ValueError(*frame[ERROR].head(1)))
    raise InvalidModelError("", f"does not answer on its input example: {errors}.")


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
