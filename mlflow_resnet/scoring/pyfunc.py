"""The model that MLflow loads: predict(model_input, params)."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch

from mlflow_resnet.evaluation.explanations import explain_sources
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.mlflow_seams import SERVING_VARIABLE
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prediction import SCORED_LABELS, Prediction, Predictor
from mlflow_resnet.options.predict import predict_options
from mlflow_resnet.scoring.columns import ERROR, EXPLANATION, Columns, as_frame, build_scored_columns, fill_missing
from mlflow_resnet.scoring.inputs import image_sources, list_cells
from mlflow_resnet.scoring.over_http.admission import CALL, Admission
from mlflow_resnet.scoring.over_http.guard import Guard, current_guard, is_on, is_serving
from mlflow_resnet.scoring.over_http.merging import MergedForward
from mlflow_resnet.scoring.over_http.servers import is_mlserver, is_spark_task

MOST_WARM_UP_SECONDS = 60.0
Predict = Callable[[Iterator[ImageSource], int], Iterator[Prediction]]


class ScoringModel:
    """Scores images in any of the forms that `mlflow_resnet.scoring.inputs` lists. Safe to call from many threads."""

    def __init__(
        self,
        predictor: Predictor,
        batch_size: int = 32,
        max_images_per_request: int = 256,
        max_batch_size: int = 32,
        max_latency_ms: float = 0,
    ) -> None:
        self._admission = Admission()
        forward, size = predictor.probabilities, predictor.preprocessing.image_size
        self._merged = MergedForward(forward, size, max_batch_size, max_latency_ms, on_batch=self._admission.learn)
        self._predictor = copy.copy(predictor)
        self._predictor.probabilities = self._merged
        self._batch_size = batch_size
        self._max_images = max_images_per_request

    def watch_batches(self, on_batch: Callable[[int], object]) -> None:
        """Has `on_batch` be told how many images just went through the network."""
        self._merged.watchers.append(on_batch)

    def warm_up(self) -> None:
        """Runs the network on one image and on as many as it gets at once, if that can be done in a minute.

        The first time takes longest.
        """
        size = self._predictor.preprocessing.image_size
        self._run_once(1, size)
        in_time = int(MOST_WARM_UP_SECONDS / max(self._admission.seconds_per_image, 1e-6))
        self._run_once(max(1, min(self._merged.max_batch_size, in_time)), size)

    def _run_once(self, count: int, size: int) -> None:
        images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        began = time.perf_counter()
        self._merged(images)
        self._admission.seconds_per_image = (time.perf_counter() - began) / count

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for every image, in input order.

        Args:
            model_input: directory, file, bytes, base64, `s3://…`, a list of these, or a table with a column of them.
            params: the fields of `PredictOptions`: `top_k` (0: a column per class), `batch_size` (0: as configured),
                `min_confidence` (images whose most probable class has less get no label), `tta` ("flip": and their
                mirror images), `resolution` (a crop size in pixels; 0: as trained), and `explain` (a picture of what
                speaks for that class).

        Returns:
            Columns image, Scored Labels, Scored Probabilities_<class> (or Top <rank> Label and Probability), for
            `explain` a base64-encoded PNG as explanation, error.

        Raises:
            InvalidOptionsError: if the input as a whole or a parameter cannot be used. A bad image is only a row.
            ServerBusyError: if the answer to an HTTP request cannot be had in time.
            MissingPackageError: for `explain` without captum, which is not among the model's requirements.
        """
        frame = as_frame(self.score(model_input, params))
        # Of a table spark_udf takes the first column if a `result_type` such as "string" asks for one, and that is to
        # be the label; where more are asked for, it takes them by their names.
        if is_spark_task():
            frame.insert(0, SCORED_LABELS, frame.pop(SCORED_LABELS))
        if not any(frame[ERROR]) or not is_serving():
            return frame
        if CALL.get() or is_on(SERVING_VARIABLE):  # MLflow's server would write a bare NaN: invalid JSON
            return frame.astype(object).where(frame.notna(), None)
        return fill_missing(frame, keep_nan=is_mlserver())

    def score(self, model_input: Any, params: dict[str, Any] | None = None) -> Columns:
        """What `predict` returns, as columns."""
        if call := CALL.get():
            call.is_scored = True
        options = predict_options(params, tell_values=not is_serving())
        predictor = self._predictor.at_test_time(options.tta, options.resolution)
        # The cost of an image relative to the trained resolution. What may go through the network at once is divided
        # by it over HTTP, so that no params make a request larger than the operator allows.
        growth = max(1.0, (options.resolution / self._predictor.preprocessing.crop_size) ** 2)
        max_images = max(1, int(self._max_images / growth / (2 if options.tta else 1)))
        guard = current_guard(max_images, is_request=call is not None)
        usual = max(1, int(self._batch_size / growth))
        predict = partial(explain_sources, predictor) if options.explain else predictor.predict
        with self._merged.caller():
            if guard.serving:
                batch_size = min(options.batch_size or usual, usual)
                predictions = self._answer_in_time(predict, model_input, batch_size, guard)
            else:
                predictions = list(predict(image_sources(model_input, guard), options.batch_size or usual))
        columns = build_scored_columns(predictions, predictor.classes, options.top_k, options.min_confidence)
        if options.explain:
            encoded = [p.explanation and base64.b64encode(p.explanation).decode() for p in predictions]
            columns |= {EXPLANATION: encoded, ERROR: columns.pop(ERROR)}  # which is the last one
        return columns

    def _answer_in_time(self, predict: Predict, model_input: Any, batch_size: int, guard: Guard) -> list[Prediction]:
        """The predictions for a request over HTTP. Raises ServerBusyError if they cannot be had in time."""
        images = sum(1 for _ in list_cells(model_input))
        guard.check_number(images)
        with self._admission.admit(images) as work:
            predictions = predict(work.limit(image_sources(model_input, guard)), batch_size)
            return list(self._admission.count_predictions(work, predictions, batch_size))

    def get_raw_model(self) -> ImageClassifier:
        return self._predictor.classifier
