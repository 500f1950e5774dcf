"""What a saved model's configuration says, which can be changed when it is loaded."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.model.backends.forwards import TORCH, prepared_forward, usable_device
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.storage import load_classifier
from mlflow_resnet.scoring import hosting
from mlflow_resnet.scoring.pyfunc import ScoringModel
from mlflow_resnet.scoring.unknown import refuse_unknown_params

DEFAULT_MODEL_CONFIG: dict[str, Any] = {
    "device": "auto",
    "backend": TORCH,
    "precision": "auto",
    "batch_size": 32,
    "max_images_per_request": 256,
    "max_batch_size": 32,  # images of several requests that go through the network together
    "max_latency_ms": 0,  # how long such a batch waits for requests that are being decoded
}
# What a model may say of itself where it is served; more is for the operator to say, in CONFIGURATION.
LIMITS = {"batch_size": 256, "max_batch_size": 256, "max_images_per_request": 1024}
CONFIGURATION = "MLFLOW_PYFUNC_INFERENCE_CONFIG"  # MLflow's own name: JSON that overrides any model's configuration
MAX_DIGITS = 18
DEFAULT_DEVICE = "MLFLOW_DEFAULT_PREDICTION_DEVICE"  # MLflow's own name, as its pytorch flavor reads it


def configured_model(data: Path, given: Mapping[str, Any]) -> ScoringModel:
    """The model that answers `predict`, from a model's data folder.

    Args:
        given: what differs from `DEFAULT_MODEL_CONFIG`.
    """
    refuse_unknown_params()
    config = DEFAULT_MODEL_CONFIG | dict(given)
    hosted = hosting.is_hosted()
    if hosted:
        hosting.share_cores()
    number = limited if hosted else positive
    numbers = {name: number(config, name) for name in LIMITS}
    latency = milliseconds(config)
    model = ScoringModel(configured_predictor(data, config), max_latency_ms=latency, **numbers)
    if hosted:
        model.warm_up()
    if hosting.is_mlflows_server():
        from mlflow_resnet.scoring.mlflows_server import bound_mlflows_server

        bound_mlflows_server(numbers["max_images_per_request"])
    return model


def configured_predictor(data: Path, config: dict[str, Any], num_workers: int = 0) -> Predictor:
    """What predicts with the classifier in a model's data folder, as `config` says."""
    classifier = load_classifier(data)
    device = usable_device(device_of(config), config["backend"])
    precision, forward = prepared_forward(classifier, device, config["precision"], config["backend"], data)
    return Predictor(classifier, str(device), num_workers, precision, forward)


def device_of(config: dict[str, Any]) -> str:
    """The device that a model's configuration names, or else the operator's environment."""
    device = config.get("device", "auto")
    return os.environ.get(DEFAULT_DEVICE, "auto") if device == "auto" else device


def milliseconds(config: dict[str, Any]) -> float:
    """`max_latency_ms` of a model's configuration, which a person may have typed as text."""
    with contextlib.suppress(ValueError, TypeError):
        if 0 <= (value := float(config["max_latency_ms"])) <= 1000:
            return value
    text = f"max_latency_ms in the model's configuration is {config['max_latency_ms']}"
    raise InvalidOptionsError([f"{text}; it must be a number from 0 to 1000"])


def positive(config: dict[str, Any], name: str) -> int:
    """A number of the model's configuration, which a person may have typed as text."""
    text = str(config[name])
    if not text.isdecimal() or len(text) > MAX_DIGITS or int(text) == 0:
        raise InvalidOptionsError([f"{name} in the model's configuration is {text:.60}; it must be an integer from 1"])
    return int(text)


def limited(config: dict[str, Any], name: str) -> int:
    """The same where it decides a server's memory: at most LIMITS, or what the operator says."""
    value, limit = positive(config, name), LIMITS[name]
    if value > limit and value != told_by_operator().get(name):
        problem = f"{name} in the model's configuration is {value}, over the limit of {limit}"
        raise InvalidOptionsError([f"{problem}; who runs the server can set it in {CONFIGURATION}"])
    return value


def told_by_operator() -> dict[str, int]:
    """The numbers in the operator's configuration, which he may have typed as text."""
    try:
        given = json.loads(os.environ.get(CONFIGURATION) or "{}")
        return {name: int(given[name]) for name in LIMITS if name in given}
    except (ValueError, TypeError):
        return {}
