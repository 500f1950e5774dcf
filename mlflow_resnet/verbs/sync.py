"""Delivers what a training could not."""

from __future__ import annotations

from mlflow_resnet.io.console import say
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.sync import SyncOptions
from mlflow_resnet.runs.folder import open_training_folder
from mlflow_resnet.tracking.pieces import VersionPiece
from mlflow_resnet.tracking.run import find_gone
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.tracking.training_record import TrainingRecord


def sync(options: SyncOptions) -> TrainingRecord:
    """Delivers what a training in this folder could not; the training may be unfinished.

    Raises:
        ServerUnreachableError, NotDeliveredError: if that is still so; what is left is kept.
        CheckpointError: if there is no training in the folder, or it is going on.
    """
    with open_training_folder(options.directory) as folder:
        check_servers(registry=any(folder.outbox.find(VersionPiece)))
        folder.deliver()
        if folder.is_finished and (gone := find_gone(folder.notes)):
            say(f"all was delivered, but {gone}")
        return folder.read_record()


def summarize_sync(result: TrainingRecord, options: SyncOptions) -> str:
    lines = [f"run       {result.run_id}"]
    lines += [f"model     {result.model_uri}"] if result.model_uri else []
    lines += [f"version   {result.version}"] if result.version else []
    return in_lines(["delivered", *lines])
