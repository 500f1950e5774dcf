"""The model that MLflow loads: predict(model_input, params)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.explanations import explained
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prediction import Prediction, Predictor
from mlflow_resnet.scoring.frame import EXPLANATION, scored_frame
from mlflow_resnet.scoring.guard import current_guard
from mlflow_resnet.scoring.inputs import image_sources


class ScoringModel:
    """Scores images in any of the forms that `mlflow_resnet.scoring.inputs` lists. Safe to call from many threads."""

    def __init__(self, predictor: Predictor, batch_size: int = 32, max_images_per_request: int = 256) -> None:
        self._predictor = predictor
        self._batch_size = batch_size
        self._max_images = max_images_per_request

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for every image, in input order.

        Args:
            model_input: directory, file, bytes, base64, `s3://…`, a list of these, or a table with a column of them.
            params: `top_k` (0: a column per class), `batch_size` (0: as configured), `min_confidence` (images whose
                most probable class has less get no label), and `explain` (a picture of what speaks for that class).

        Returns:
            Columns image, Scored Labels, Scored Probabilities_<class> (or Top <rank> Label and Probability), for
            `explain` a base64-encoded PNG as explanation, error.

        Raises:
            InvalidOptionsError: if the input as a whole or a parameter cannot be used. A bad image is only a row.
            MissingPackageError: for `explain` without captum, which is not among the model's requirements.
        """
        top_k, batch_size, min_confidence = checked_params(params or {})
        guard = current_guard(self._max_images)
        sources = image_sources(model_input, guard)
        explains = bool(params and params.get("explain"))
        predict = partial(explained, self._predictor) if explains else self._predictor.predict
        predictions = list(predict(sources, batch_size or self._batch_size))
        frame = scored_frame(predictions, self._predictor.classes, top_k, min_confidence)
        if explains:
            frame.insert(len(frame.columns) - 1, EXPLANATION, explanations_of(predictions))
        return without_nan(frame) if guard.serving else frame

    def get_raw_model(self) -> ImageClassifier:
        """The classifier itself."""
        return self._predictor.classifier


def checked_params(params: dict[str, Any]) -> tuple[int, int, float]:
    """`top_k`, `batch_size` and `min_confidence`, 0 where not given."""
    values = {name: int(params.get(name) or 0) for name in ("top_k", "batch_size")}
    problems = [f"{name} is {value}; it must be 0 or more" for name, value in values.items() if value < 0]
    min_confidence = float(params.get("min_confidence") or 0)
    if not 0 <= min_confidence <= 1:
        problems.append(f"min_confidence is {min_confidence}; it must be from 0 to 1")
    if problems:
        raise InvalidOptionsError(problems)
    return values["top_k"], values["batch_size"], min_confidence


def explanations_of(predictions: Sequence[Prediction]) -> pd.Series:
    """The PNGs in base64, which JSON takes; None where there is none."""
    pngs = [prediction.explanation for prediction in predictions]
    return pd.Series([png and base64.b64encode(png).decode() for png in pngs], dtype=object)


def without_nan(frame: pd.DataFrame) -> pd.DataFrame:
    """None instead of NaN, which MLflow's server would write as a bare NaN: invalid JSON."""
    return frame.astype(object).where(frame.notna(), None)
