"""Scoring with Ray Data: a class for `map_batches` over images as `ray.data.read_binary_files` reads them.

    images = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    scored = images.map_batches(
        mlflow_resnet.ScoreImages,
        fn_constructor_kwargs={"model_uri": "models:/flowers@champion"},
        batch_size=128,
        concurrency=8,
    )
    scored.write_parquet("s3://bucket/scored")

Ray itself is not imported here: it calls the class. The extra [ray] installs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlflow_resnet import flavor
from mlflow_resnet.errors import encodable
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.predict import PredictOptions
from mlflow_resnet.scoring.columns import build_scored_frame
from mlflow_resnet.scoring.inputs import check_size
from mlflow_resnet.scoring.to_file.batch import build_scored_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class ScoreImages:
    """Loads a model once, and scores batches with the columns `bytes` and `path`: one row each, in order.

    Args:
        model_uri: model to score with; the process must reach its registry or files.
        num_workers: threads that decode images; as many as the actor has CPUs.

    The other arguments are options of `mlflow-resnet score`.
    """

    def __init__(
        self,
        model_uri: str,
        *,
        top_k: int = 0,
        min_confidence: float = 0.0,
        tta: str = "",
        resolution: int = 0,
        batch_size: int = 32,
        device: str = AUTO,
        precision: str = AUTO,
        backend: str = AUTO,
        num_workers: int = 1,
    ) -> None:
        self._options = PredictOptions(
            top_k=top_k, min_confidence=min_confidence, tta=tta, resolution=resolution, batch_size=batch_size
        )
        predictor = flavor.load_predictor(model_uri, device, num_workers, precision, backend)
        self._predictor = predictor.at_test_time(tta, resolution)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """The columns of scored data; `image` is the path."""
        sources = map(make_ray_source, batch["path"], batch["bytes"])
        predictions = list(self._predictor.predict(sources, self._options.batch_size))
        top_k, min_confidence = self._options.top_k, self._options.min_confidence
        return build_scored_table(build_scored_frame(predictions, self._predictor.classes, top_k, min_confidence))


def make_ray_source(path: str, content: bytes) -> ImageSource:
    """An image that Ray has read."""

    def read() -> bytes:
        check_size(content, MAX_IMAGE_BYTES)
        return content

    return ImageSource(encodable(path), read)
