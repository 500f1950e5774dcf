"""The options of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    AUTO,
    BACKEND,
    BATCH_SIZE,
    DEVICE,
    FOLLOW_LINKS,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    NUM_WORKERS,
    ON_BAD_IMAGE,
    PRECISIONS,
    RESOLUTION,
    SCORING_PRECISION,
    TTA,
    TTAS,
    Options,
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
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    backend: str = option(BACKEND, "auto", choices=(AUTO, *BACKEND_PRECISIONS))
    precision: str = option(SCORING_PRECISION, "auto", choices=(*PRECISIONS, "int8"))
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        return resolution_problems(self.resolution)
