"""The options of `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import BATCH_SIZE, DEVICE, NUM_WORKERS, Options, option


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """Options of `explain`."""

    verb = "explain"

    model_uri: str = option("model to explain, such as models:/digits@champion")
    image_dir: str = option("images at any depth below this directory, local or s3://")
    output_dir: str = option("directory to write PNGs and index.csv to; must not exist or be empty")
    max_images: int = option("explain only so many images, the first ones; 0: all", 0, at_least=0)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    device: str = option(DEVICE, "auto")
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)
