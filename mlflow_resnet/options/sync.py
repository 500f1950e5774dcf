"""The options of `sync`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import HERE, Options, option


@dataclass(frozen=True, kw_only=True)
class SyncOptions(Options):
    """Deliver what a training could not: run, artifacts, model and registration.

    DIRECTORY is its checkpoint folder.
    """

    examples = "mlflow-resnet sync checkpoints/resnet50-flowers"

    directory: str = option("checkpoint folder of the training", is_argument=True, place=HERE)
