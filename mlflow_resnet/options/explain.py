"""The options of `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    HERE_OR_IN_S3,
    Options,
    batch_size_option,
    csv_formulas_option,
    device_option,
    follow_links_option,
    num_workers_option,
    option,
)


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """Write each image with a heat map of what speaks for its most probable class, and a table. Needs captum."""

    examples = """
    mlflow-resnet explain --model-uri models:/flowers@champion --image-dir new-photos \\
        --output-dir explained
    """

    model_uri: str = option("model to explain, such as models:/digits@champion")
    image_dir: str = option("images at any depth below this directory, local or s3://", place=HERE_OR_IN_S3)
    output_dir: str = option(
        "directory to write PNGs and index.csv to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3
    )
    max_images: int = option("explain only so many images, the first ones; 0: all", 0, at_least=0)
    csv_formulas: str = csv_formulas_option()
    batch_size: int = batch_size_option()
    device: str = device_option()
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()
