"""Delivers what a training could not."""

from __future__ import annotations

from typing import Any

from mlflow_resnet.io.console import say
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.sync import SyncOptions
from mlflow_resnet.runs.folder import opened_folder
from mlflow_resnet.tracking.remains import find_gone
from mlflow_resnet.tracking.server import check_servers


def sync(options: SyncOptions) -> dict[str, Any]:
    """Delivers what a training in this folder could not; returns what a `TrainResult` has besides the classifier.

    Raises:
        ServerUnreachableError, NotDeliveredError: if that is still so; what is left is kept.
        CheckpointError: if there is no training in the folder, or it is going on.
    """
    with opened_folder(options.directory) as folder:
        check_servers(registry=any(folder.outbox.of_kind("version")))
        folder.deliver()
        if folder.is_finished and (gone := find_gone(folder.notes)):
            say(f"all was delivered, but {gone}")
        return folder.result()


def summarize_sync(result: dict[str, Any], options: SyncOptions) -> str:
    """Args: result: what a `TrainResult` has besides the classifier, of a training that may be unfinished."""
    lines = [f"run       {result['run_id']}"]
    lines += [f"model     {result['model_uri']}"] if result["model_uri"] else []
    lines += [f"version   {result['version']}"] if result["version"] else []
    return in_lines(["delivered", *lines])
