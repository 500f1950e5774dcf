"""The options of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    AUTO,
    BACKEND,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    PRECISIONS,
    RESOLUTION,
    SCORING_PRECISION,
    TTA,
    TTAS,
    Options,
    batch_size_option,
    device_option,
    follow_links_option,
    num_workers_option,
    on_bad_image_option,
    option,
    resolution_problems,
)
from mlflow_resnet.options.formats import BACKEND_PRECISIONS


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Measure a model on folders of images: accuracy, precision, recall, F1, log loss, per class and on average."""

    examples = "mlflow-resnet evaluate --model-uri models:/flowers/2 --image-dir flowers-test"

    model_uri: str = option("model to evaluate, such as models:/digits/1")
    image_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    tta: str = option(TTA, "", choices=TTAS)
    resolution: int = option(RESOLUTION, 0)
    batch_size: int = batch_size_option()
    on_bad_image: str = on_bad_image_option()
    device: str = device_option()
    backend: str = option(BACKEND, "auto", choices=(AUTO, *BACKEND_PRECISIONS))
    precision: str = option(SCORING_PRECISION, "auto", choices=(*PRECISIONS, "int8"))
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()

    def combinations(self) -> list[str]:
        return resolution_problems(self.resolution)
