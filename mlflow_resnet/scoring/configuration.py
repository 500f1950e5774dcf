"""A saved model's configuration, which may be changed when it is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.images.decoding.decode import bound_decoding
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.mlflow_seams import (
    CONFIGURATION_VARIABLE,
    DEFAULT_DEVICE_VARIABLE,
    is_scoring_server,
    replace_input_check,
)
from mlflow_resnet.model.forwards import TORCH, prepare_forward, usable_device
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.prepared import TorchForward
from mlflow_resnet.model.storage import StoredModel
from mlflow_resnet.scoring.inputs import check_input
from mlflow_resnet.scoring.over_http.guard import is_serving
from mlflow_resnet.scoring.over_http.network_threads import spread
from mlflow_resnet.scoring.pyfunc import ScoringModel

DEFAULT_MODEL_CONFIG: dict[str, Any] = {
    "device": "auto",
    "backend": TORCH,
    "precision": "auto",
    "batch_size": 32,
    "max_images_per_request": 256,
    "max_batch_size": 32,  # images of several requests that go through the network together
    "max_latency_ms": 0,  # how long such a batch waits for requests that are being decoded
}
# What a model may say of itself where it is served; more is for the operator to say, in CONFIGURATION_VARIABLE.
CONFIG_LIMITS = {"batch_size": 256, "max_batch_size": 256, "max_images_per_request": 1024}
MAX_DECODING_BYTES = 640 * 2**20  # of all pictures that a server decodes at the same time
MAX_DIGITS = 18
WORLD_SIZE = "LOCAL_WORLD_SIZE"


def configure_model(stored: StoredModel, given: Mapping[str, Any]) -> ScoringModel:
    """The model that answers `predict`, configured by what is `given`, and otherwise by `DEFAULT_MODEL_CONFIG`.

    MLflow's scoring server loads it before it listens, so what is done here is done when `/ping` says yes.
    """
    replace_input_check(check_input)
    config = DEFAULT_MODEL_CONFIG | dict(given)
    is_hosted = is_serving() or is_scoring_server()
    if is_hosted:
        share_mlflow_cores()
        bound_decoding(MAX_DECODING_BYTES)
    number = read_limited if is_hosted else read_positive
    numbers = {name: number(config, name) for name in CONFIG_LIMITS}
    latency = read_milliseconds(config)
    predictor = configure_predictor(stored, config)
    if is_hosted and isinstance(predictor.probabilities, TorchForward) and predictor.device.type == "cpu":
        predictor.probabilities = spread(predictor.probabilities)
    model = ScoringModel(predictor, max_latency_ms=latency, **numbers)
    if is_hosted:
        model.warm_up()
    if is_scoring_server():
        from mlflow_resnet.scoring.over_http.mlflows_server import bound_mlflows_server

        bound_mlflows_server(numbers["max_images_per_request"])
    return model


def share_mlflow_cores() -> None:
    """Divides the cores among the workers of `mlflow models serve --workers N`, as torchrun's processes do."""
    workers = parse_workers(sys.argv)
    if workers > 1 and WORLD_SIZE not in os.environ:
        os.environ[WORLD_SIZE] = str(workers)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(default_threads())


def parse_workers(command: list[str]) -> int:
    """N of `uvicorn … --workers N …`, which is the `sys.argv` of its workers too; 1 if that is not the command."""
    with contextlib.suppress(ValueError, IndexError):
        return int(command[command.index("--workers") + 1])
    return 1


def configure_predictor(stored: StoredModel, config: dict[str, Any], num_workers: int = 0) -> Predictor:
    """Returns a predictor for a saved model, configured by `config`."""
    if wrong := [name for name in ("device", "backend", "precision") if not isinstance(config.get(name), str)]:
        text = f"{wrong[0]} in the model's configuration is {config.get(wrong[0])!r:.60}"
        raise InvalidOptionsError([f"{text}; it must be text, such as auto"])
    device = usable_device(choose_device(config), config["backend"])
    precision, forward = prepare_forward(stored, device, config["precision"], config["backend"])
    identity = {"model_sha256": stored.sha256, "model_id": stored.model_id}
    return Predictor(stored.classifier, str(device), num_workers, precision, forward, **identity)


def read_operators_configuration() -> dict[str, Any]:
    """Reads changes of the model's configuration from the operator's environment, as MLflow's loader does.

    Raises:
        InvalidOptionsError: if it is not a JSON object.
    """
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        given = dict(json.loads(os.environ.get(CONFIGURATION_VARIABLE) or "{}"))
        return {name: value for name, value in given.items() if name in DEFAULT_MODEL_CONFIG}
    problem = f'{CONFIGURATION_VARIABLE} is no JSON object; expected one such as {{"max_batch_size": 64}}'
    raise InvalidOptionsError([problem])


def choose_device(config: dict[str, Any]) -> str:
    """The device that a model's configuration names, or else the operator's environment."""
    device = config.get("device", "auto")
    return os.environ.get(DEFAULT_DEVICE_VARIABLE, "auto") if device == "auto" else device


def read_milliseconds(config: dict[str, Any]) -> float:
    """Returns `max_latency_ms` of a configuration, where it may be text."""
    with contextlib.suppress(ValueError, TypeError):
        if 0 <= (value := float(config["max_latency_ms"])) <= 1000:
            return value
    text = f"max_latency_ms in the model's configuration is {config['max_latency_ms']}"
    raise InvalidOptionsError([f"{text}; it must be a number from 0 to 1000"])


def read_positive(config: dict[str, Any], name: str) -> int:
    """Returns a positive number of a configuration, where it may be text."""
    text = str(config[name])
    if not text.isdecimal() or len(text) > MAX_DIGITS or int(text) == 0:
        raise InvalidOptionsError([f"{name} in the model's configuration is {text:.60}; it must be an integer from 1"])
    return int(text)


def read_limited(config: dict[str, Any], name: str) -> int:
    """Returns a number that decides a server's memory: at most that in LIMITS, or the operator's."""
    value, limit = read_positive(config, name), CONFIG_LIMITS[name]
    if value > limit and str(value) != str(read_operators_configuration().get(name)):
        problem = f"{name} in the model's configuration is {value}, over the limit of {limit}"
        raise InvalidOptionsError([f"{problem}; who runs the server can set it in {CONFIGURATION_VARIABLE}"])
    return value
