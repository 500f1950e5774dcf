"""The options of `promote`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    ALIAS_TO_MOVE,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    Options,
    batch_size_option,
    device_option,
    find_missing_alias,
    follow_links_option,
    num_workers_option,
    on_bad_image_option,
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
    batch_size: int = batch_size_option()
    on_bad_image: str = on_bad_image_option()
    device: str = device_option()
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()

    def combinations(self) -> list[str]:
        return find_missing_alias(self.alias)
