"""The options of `shadow`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    HERE_OR_IN_S3,
    Options,
    batch_size_option,
    device_option,
    follow_links_option,
    num_workers_option,
    option,
)


@dataclass(frozen=True, kw_only=True)
class ShadowOptions(Options):
    """Predict images with two models and show where their labels differ. The images need no labels."""

    examples = """
    mlflow-resnet shadow --champion models:/flowers@champion --challenger models:/flowers@challenger \\
        --image-dir new-photos
    """

    champion: str = option("the model that answers now, such as models:/digits@champion")
    challenger: str = option("the model to compare with it, such as models:/digits@challenger")
    image_dir: str = option(
        "images at any depth below this directory, local or s3://; they need no labels", place=HERE_OR_IN_S3
    )
    batch_size: int = batch_size_option()
    device: str = device_option()
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()
