"""What several verbs need."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mlflow_resnet import flavor
from mlflow_resnet.errors import LISTED
from mlflow_resnet.model.hardware import keep_freed_memory
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.weights import MODEL_SCHEMES
from mlflow_resnet.options import (
    EvaluateOptions,
    ExplainOptions,
    PromoteOptions,
    ScoreOptions,
    ShadowOptions,
)
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.tracking.server import check_servers


def check_servers_of(model_uri: str) -> None:
    """Asks the servers that a model URI leads to; a folder or an object store needs none."""
    if model_uri.startswith(MODEL_SCHEMES):
        check_servers(registry=model_uri.startswith("models:/"))


def load_predictor(
    model_uri: str,
    options: EvaluateOptions | ExplainOptions | PromoteOptions | ScoreOptions | ShadowOptions,
    precision: str = AUTO,
    backend: str = AUTO,
) -> Predictor:
    """A model on the device that the options name, and otherwise as it is configured."""
    predictor = flavor.load_predictor(model_uri, options.device, options.num_workers, precision, backend)
    if predictor.device.type == "cpu":
        keep_freed_memory()
    return predictor


def list_left_out(unreadable: dict[str, str], where: str = "") -> Iterator[str]:
    """A line for each of the first few images that were left out, and one for the rest, which are `where`."""
    yield from (f"left out {name}: {reason}" for name, reason in islice(unreadable.items(), LISTED))
    if (more := len(unreadable) - LISTED) > 0:
        yield f"left out {more} more{where}"


def describe_gate(by_gate: bool) -> str:
    if by_gate:
        return "guarded   by the gate of the server"
    return "guarded   by nobody: this server has no gate, so anybody may move the alias; see docs/gate.md"
