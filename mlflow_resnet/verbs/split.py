"""Copies a labeled directory into parts."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.images.splitting.directory_split import split_directory
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.split import SplitOptions
from mlflow_resnet.tracking.run import end_attached_run


def split(options: SplitOptions) -> list[LabeledDirectory]:
    """Copies a labeled directory into two or three parts.

    Raises:
        MlflowResnetError: for anything a user can cause.
    """
    with end_attached_run():
        check_directories(options.image_dir)
        return split_directory(options)


def summarize_split(result: Sequence[LabeledDirectory], options: SplitOptions) -> str:
    lines = [f"{len(part)} images of {len(part.classes)} classes in {part.source}" for part in result]
    return in_lines([*lines, *filter(None, [result[0].advice])])
