"""The options of `export`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_resnet.options.base import (
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    Options,
    batch_size_option,
    follow_links_option,
    model_name_problems,
    num_workers_option,
    on_bad_image_option,
    option,
    serving_for_option,
)
from mlflow_resnet.options.formats import EXPORT_FORMATS


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a model that takes uint8 pictures, for other engines and programs; compare its answers with the model's.

    int8 is refused if it loses more than half a point of accuracy.
    """

    examples = """
    mlflow-resnet export --model-uri models:/flowers@champion --format openvino --precision int8 \\
        --output-dir exported --image-dir flowers-test --calibration-dir flowers
    """

    model_uri: str = option("model to export, such as models:/digits@champion")
    format: str = option("what to write", choices=tuple(EXPORT_FORMATS))
    output_dir: str = option("directory to write to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3)
    image_dir: str = option(
        IMAGE_DIR_LABELED + ", to compare on: images that the model was not trained on", place=HERE_OR_IN_S3
    )
    precision: str = option("of the convolutions", "fp32", choices=("fp32", "bf16", "int8"))
    calibration_dir: str = option(
        "for int8: training images, at any depth below this directory; their labels play no part",
        "",
        place=HERE_OR_IN_S3,
    )
    registered_model_name: str = option(
        "name to register a model under that predicts with what was exported; empty: none", ""
    )
    serving_for: str = serving_for_option()
    batch_size: int = batch_size_option()
    on_bad_image: str = on_bad_image_option()
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()

    def combinations(self) -> Iterator[str]:
        yield from model_name_problems(self.registered_model_name)
        precisions = EXPORT_FORMATS.get(self.format, (self.precision,))
        if self.precision not in precisions:
            yield f"precision is {self.precision!r}; for {self.format}, choose one of {', '.join(precisions)}"
        if (self.precision == "int8") != bool(self.calibration_dir):
            yield "precision int8 and calibration_dir need each other"
        if self.format == "torch_export" and self.registered_model_name:
            yield "a registered model predicts with torch anyway; for torch_export, leave out registered_model_name"
        if self.serving_for and not self.registered_model_name:
            yield f"serving_for {self.serving_for} is for a registered model; add registered_model_name"
