"""Checks from its files whether a version fits into memory, before it is loaded.

With `--follow` a version is loaded in the process that serves another one, so what its files say is not believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.models.model import MLMODEL_FILE_NAME

from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError
from mlflow_resnet.io.memory import available_memory, size_in_words
from mlflow_resnet.model.storage import DATA_SUBPATH, DESCRIPTION_FILE, WEIGHTS_FILE, read_description
from mlflow_resnet.scoring.configuration import DEFAULT_MODEL_CONFIG, read_limited

MAX_TEXT_BYTES = 16 * 2**20  # of MLmodel, classifier.json and the like, which parsers make many times as large
MAX_YAML_EVENTS = 10_000  # of MLmodel: values, and beginnings and ends of lists
LARGEST_IMAGE_SIZE = 2048  # pixels of each side that a network may see
MODEL_COPIES = 3  # of the weights, while they are loaded
BYTES_PER_INPUT_PIXEL = 500  # that a network takes for a batch: 150 (resnet18) to 440 (resnet50) were measured
BYTES_PER_CLASS = 512  # of the weights at least: inputs of the smallest last layer, one byte each


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
