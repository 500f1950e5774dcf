"""The options of `score`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow_resnet.options import base
from mlflow_resnet.options.base import HERE_OR_IN_S3, Options, option

SHARD = re.compile("[0-9]{1,9}/[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Score every image below a directory, or in a list, to a Parquet, CSV or JSONL file, one row per image."""

    examples = """
    mlflow-resnet score --model-uri models:/flowers@champion --image-dir new-photos \\
        --output scored.parquet
    """

    model_uri: str = option("model to score with, such as models:/digits@champion")
    image_dir: str = option(
        "images at any depth below this directory, local or s3://; or a list of them: .txt, or .csv or .parquet with a "
        "column image or path",
        place=HERE_OR_IN_S3,
    )
    output: str = option("file to write, local or s3://: .parquet, .csv or .jsonl", place=HERE_OR_IN_S3)
    shard: str = option("score only part i of n, i/n such as 2/8, on each of n machines another; empty: all", "")
    top_k: int = option("write the k most probable classes instead of all; 0: all", 0, at_least=0)
    min_confidence: float = option(
        "give no label to images whose most probable class has less than this probability", 0.0, at_least=0, at_most=1
    )
    csv_formulas: str = base.csv_formulas_option()
    tta: str = base.tta_option()
    resolution: int = base.resolution_option()
    batch_size: int = base.batch_size_option()
    device: str = base.device_option()
    backend: str = base.backend_option()
    precision: str = base.scoring_precision_option()
    follow_links: bool = base.follow_links_option()
    num_workers: int = base.num_workers_option()

    @property
    def part(self) -> tuple[int, int]:
        """Number of the part, and the number of parts."""
        number, _, parts = (self.shard or "1/1").partition("/")
        return int(number), int(parts)

    def combinations(self) -> list[str]:
        problems = base.resolution_problems(self.resolution)
        if self.shard and not (SHARD.fullmatch(self.shard) and 1 <= self.part[0] <= self.part[1]):
            problems.append(f"shard is {self.shard!r}; it must be i/n with i from 1 to n, such as 2/8")
        return problems
