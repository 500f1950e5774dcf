"""The options of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options import base
from mlflow_resnet.options.base import HERE_OR_IN_S3, IMAGE_DIR_LABELED, Options, option


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Measure a model on folders of images: accuracy, precision, recall, F1, log loss, per class and on average."""

    examples = "mlflow-resnet evaluate --model-uri models:/flowers/2 --image-dir flowers-test"

    model_uri: str = option("model to evaluate, such as models:/digits/1")
    image_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    tta: str = base.tta_option()
    resolution: int = base.resolution_option()
    batch_size: int = base.batch_size_option()
    on_bad_image: str = base.on_bad_image_option()
    device: str = base.device_option()
    backend: str = base.backend_option()
    precision: str = base.scoring_precision_option()
    follow_links: bool = base.follow_links_option()
    num_workers: int = base.num_workers_option()

    def combinations(self) -> list[str]:
        return base.resolution_problems(self.resolution)
