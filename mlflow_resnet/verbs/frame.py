"""What several verbs need."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mlflow_resnet import flavor
from mlflow_resnet.evaluation.metrics import format_interval
from mlflow_resnet.io.text.characters import LISTED, in_lines
from mlflow_resnet.model.hardware import keep_freed_memory
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.weights import MODEL_SCHEMES
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.evaluate import EvaluateOptions
from mlflow_resnet.options.explain import ExplainOptions
from mlflow_resnet.options.promote import PromoteOptions
from mlflow_resnet.options.score import ScoreOptions
from mlflow_resnet.options.shadow import ShadowOptions
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.tracking.training_record import TrainResult


def check_model_servers(model_uri: str) -> None:
    """Asks the servers that a model URI leads to; a folder or an object store needs none."""
    if model_uri.startswith(MODEL_SCHEMES):
        check_servers(registry=model_uri.startswith("models:/"))


def open_predictor(
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
    """Yields a line for each of the first images that were left out, and one for the rest."""
    yield from (f"left out {name}: {reason}" for name, reason in islice(unreadable.items(), LISTED))
    if (more := len(unreadable) - LISTED) > 0:
        yield f"left out {more} more{where}"


def describe_gate(by_gate: bool) -> str:
    if by_gate:
        return "guarded   by the gate of the server"
    return "guarded   by nobody: this server has no gate, so anybody may move the alias; see docs/gate.md"


def describe_training(result: TrainResult, registered_model_name: str) -> str:
    """Return what a training came to, in lines."""
    top1, best = result.metrics["val_top1_accuracy"], result.best_epoch
    interval = format_interval(result.metrics.get(f"interval/val_top1_accuracy_{end}") for end in ("low", "high"))
    lines = [f"validation top-1 accuracy {top1:.4f}{interval} (epoch {best}, which the validation images chose)"]
    if (test := result.metrics.get("test_top1_accuracy")) is not None:
        interval = format_interval(result.metrics[f"interval/test_top1_accuracy_{end}"] for end in ("low", "high"))
        lines.append(f"test top-1 accuracy {test:.4f}{interval}")
    lines.append(f"model     {result.model_uri}")
    if result.run_id:
        lines.append(f"run       {result.run_id}")
    if result.version:
        alias = f", alias {result.alias}" if result.alias else ""
        lines.append(f"registry  models:/{registered_model_name}/{result.version}{alias}")
    return in_lines(lines)
