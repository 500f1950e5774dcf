"""The options of `transform`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    HERE,
    HERE_OR_IN_S3,
    MAX_SEED,
    Options,
    follow_links_option,
    num_workers_option,
    option,
)


@dataclass(frozen=True, kw_only=True)
class TransformOptions(Options):
    """Write what a list of torchvision's transformations makes of each image, as PNGs.

    Training and scoring do not need it: they transform images as they read them.
    """

    examples = """
    mlflow-resnet transform --image-dir flowers --output-dir flowers-224 --transformation steps.json \\
        --mode inference

    A transformation:
    [{"name": "Resize", "size": 256}, {"name": "RandomRotation", "degrees": 10}]
    """

    image_dir: str = option("images at any depth below this directory, local or s3://", place=HERE_OR_IN_S3)
    output_dir: str = option(
        "directory to write PNGs to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3
    )
    transformation: str = option(
        'JSON file: a list such as [{"name": "Resize", "size": 256}], or a run\'s training.json; '
        "empty: the designer's defaults",
        "",
        place=HERE,
    )
    mode: str = option(
        "training: all of it, drawn once; inference: without what is random",
        "training",
        choices=("training", "inference"),
    )
    random_seed: int = option("seed of what is random", 1, at_least=0, below=MAX_SEED)
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()
