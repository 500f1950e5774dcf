"""The options of `split`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    HERE,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    MAX_SEED,
    Options,
    follow_links_option,
    num_workers_option,
    option,
)


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Copy an image directory into two or three parts, with the same share of every class in each.

    Pictures that are the same, and groups such as all pictures of one patient, stay on one side.
    """

    examples = """
    mlflow-resnet split --image-dir flowers --train-dir flowers-train --val-dir flowers-val \\
        --fraction 0.8
    """

    image_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    train_dir: str = option(
        "directory to write the first part to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3
    )
    val_dir: str = option("the same for the second part", place=HERE_OR_IN_S3)
    test_dir: str = option("the same for a third part; empty: two parts", "", place=HERE_OR_IN_S3)
    fraction: float = option("fraction of the images that goes to train_dir", 0.9, above=0, below=1)
    test_fraction: float = option("fraction of the images that goes to test_dir", 0.0, at_least=0, below=1)
    train_count: int = option("images for train_dir, instead of fraction; 0: by fraction", 0, at_least=0)
    val_count: int = option("images for val_dir; 0: all the others", 0, at_least=0)
    test_count: int = option("images for test_dir, instead of test_fraction; 0: by fraction", 0, at_least=0)
    random_seed: int = option("seed of the split", 1, at_least=0, below=MAX_SEED)
    group_regex: str = option("images stay together in whose names this finds the same, such as ^[^_]+", "")
    group_table: str = option("table (.csv, .parquet, .jsonl) that says which images stay together", "", place=HERE)
    group_column: str = option("its column of groups, such as patient", "")
    duplicates: str = option(
        "keep together pictures with the same pixels (exact), or that look alike too (near)",
        "exact",
        choices=("ignore", "exact", "near"),
    )
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()

    def combinations(self) -> list[str]:
        problems = []
        if not self.test_dir and (self.test_fraction or self.test_count):
            problems.append("test_fraction and test_count need a test_dir")
        if self.test_dir and not (self.test_fraction or self.test_count):
            problems.append("test_dir is given, but neither test_fraction nor test_count")
        if bool(self.group_table) != bool(self.group_column):
            problems.append("group_table and group_column need each other")
        return problems
