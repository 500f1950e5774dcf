"""The options of `promote`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    ALIAS_TO_MOVE,
    BATCH_SIZE,
    DEVICE,
    FOLLOW_LINKS,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    NUM_WORKERS,
    ON_BAD_IMAGE,
    Options,
    find_missing_alias,
    option,
)
from mlflow_resnet.options.metric_names import EVALUATION_METRICS


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(Options):
    """Move the champion alias to a version that is not worse than the present champion on the same images.

    Exits with 3 if it is worse; the alias then stays where it is.
    """

    examples = "mlflow-resnet promote --model-uri models:/flowers/3 --image-dir flowers-test --max-drop 0.005"

    model_uri: str = option("candidate version, such as models:/digits/2")
    image_dir: str = option(IMAGE_DIR_LABELED + "; candidate and champion are both measured on it", place=HERE_OR_IN_S3)
    alias: str = option(ALIAS_TO_MOVE, "champion")
    metric: str = option("metric to compare", "top1_accuracy", choices=EVALUATION_METRICS)
    max_drop: float = option("how much worse than the champion it may be, in the metric's unit", 0.0, at_least=0)
    measure_only: bool = option("write the evidence, and leave moving the alias to somebody else", False)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        return find_missing_alias(self.alias)
