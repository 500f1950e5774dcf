"""Copies a labeled directory into parts."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.images.splitting.split import split as split_images
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.split import SplitOptions
from mlflow_resnet.tracking.run import attached_run_ends_with


def split(options: SplitOptions) -> list[LabeledDirectory]:
    """Copies a labeled directory into two or three parts.

    Raises:
        MlflowResnetError: for anything a user can cause.
    """
    with attached_run_ends_with():
        check_directories(options.image_dir)
        return split_images(
            options.image_dir,
            options.train_dir,
            options.val_dir,
            options.test_dir,
            fraction=options.fraction,
            test_fraction=options.test_fraction,
            train_count=options.train_count,
            val_count=options.val_count,
            test_count=options.test_count,
            seed=options.random_seed,
            group_regex=options.group_regex,
            group_table=options.group_table,
            group_column=options.group_column,
            duplicates=options.duplicates,
            threads=options.num_workers,
            follow_links=options.follow_links,
        )


def summarize_split(result: Sequence[LabeledDirectory], options: SplitOptions) -> str:
    lines = [f"{len(part)} images of {len(part.classes)} classes in {part.source}" for part in result]
    return in_lines([*lines, *filter(None, [result[0].advice])])
