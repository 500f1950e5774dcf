"""A registered version, verified, loaded and tried, before it answers."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.pyfunc import PyFuncModel

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.model.prediction import PROBABILITY
from mlflow_resnet.model.storage import fetch_model
from mlflow_resnet.model.stored import get_config, read_mlmodel_fields
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.registry.binding import bind
from mlflow_resnet.registry.versions import format_version_uri
from mlflow_resnet.scoring.columns import ERROR
from mlflow_resnet.scoring.configuration import (
    DEFAULT_MODEL_CONFIG,
    configure_model,
    read_operators_configuration,
    read_positive,
)
from mlflow_resnet.scoring.loading import read_verified
from mlflow_resnet.scoring.over_http import guard
from mlflow_resnet.serving.fitting import check_fits, check_texts

SUM_TOLERANCE = 1e-3  # float32 over many classes


@dataclass(frozen=True)
class ServedVersion:
    """A version that can answer.

    Attributes:
        model_id: of the logged model that the version is; "" if it is none.
        model_sha256: of all that decides its answers, as it was loaded and verified.
        since: when it was ready, UTC.
        max_images: that a request may have.
        model: what predicts, in memory as long as this refers to it.
    """

    version: ModelVersion
    model_id: str
    model_sha256: str
    since: str
    max_images: int
    model: PyFuncModel

    @property
    def uri(self) -> str:
        return format_version_uri(self.version)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that name the version in an answer. Header values are ASCII, so the name is percent-encoded."""
        named = {"X-Model-Name": quote(self.version.name), "X-Model-Version": str(self.version.version)}
        return named | ({"X-Model-Id": self.model_id} if self.model_id else {})

    def facts(self) -> dict[str, Any]:
        """Returns the version's part of the answer to `/model`."""
        return {
            "name": self.version.name,
            "version": str(self.version.version),
            "model_id": self.model_id or None,
            "model_sha256": self.model_sha256,
            "since": self.since,
        }


def load_version(model_uri: str, device: str = AUTO) -> ServedVersion:
    """Downloads, verifies, loads and tries the registered version `model_uri`. The download is removed.

    Of the version only data is used, no code that travels with it: it is predicted with what is installed here.

    Raises:
        InvalidModelError: if it cannot be served, whatever the reason.
        InvalidOptionsError: if there is no such device.
    """
    try:
        known = bind(model_uri)
        if known.version is None:
            raise InvalidModelError(model_uri, "not a registered version; expected models:/<name>/<version>.")
        with fetch_model(known.uri) as path:
            config = read_configuration(path, device)
            check_fits(path, config)
            stored, metadata = read_verified(path, known), flavor.read_mlmodel(str(path))
            model = PyFuncModel(metadata, configure_model(stored, config), model_id=known.model_id or None)
            with contextlib.suppress(Exception):  # without it, a picture of our own is tried
                model.input_example = metadata.load_input_example(str(path))
        os.environ[guard.SERVING] = "true"  # from here on predict takes what it takes over HTTP
        try_out(model)
    except InvalidOptionsError:
        raise
    except InvalidModelError as error:
        raise error.about(model_uri) from None  # not with the path of the download
    except Exception as error:  # MLflow, torch, databases and disks share no base class
        raise InvalidModelError(model_uri, f"cannot be served ({one_line(error)}).") from None
    max_images = read_positive(config, "max_images_per_request")
    return ServedVersion(known.version, known.model_id, stored.sha256, utc_now(), max_images, model)


def read_configuration(path: Path, device: str) -> dict[str, Any]:
    """Returns how to serve a downloaded model: as MLmodel says, unless the operator says otherwise."""
    check_texts(path)
    saved = dict(get_config(read_mlmodel_fields(path)))
    chosen = {} if device == AUTO else {"device": device}
    return DEFAULT_MODEL_CONFIG | saved | read_operators_configuration() | chosen


def try_out(model: PyFuncModel) -> None:
    """Predicts on the model's own input example, or on a picture made here if that cannot be read over HTTP.

    Raises:
        InvalidModelError: if the answer is not what the signature says, or no finite probabilities that add up to 1.
            The caller names it.
    """
    saved, errors = model.input_example, ""
    for example in [flavor.default_input_example()] if saved is None else [saved, flavor.default_input_example()]:
        frame = pd.DataFrame(model.predict(example))
        signature = model.metadata.get_output_schema()
        if signature and list(frame.columns) != signature.input_names():
            raise InvalidModelError("", f"answers with columns {list(frame.columns)}, not those of its signature.")
        read = frame[frame[ERROR] == ""]
        if len(read):
            sums = read.filter(like=PROBABILITY).to_numpy(np.float64).sum(axis=1)
            if not (np.abs(sums - 1) <= SUM_TOLERANCE).all():  # a NaN fails too
                raise InvalidModelError("", f"probabilities of its input example add up to {sums[0]:g}, not to 1.")
            return
        errors = one_line(ValueError(*frame[ERROR].head(1)))
    raise InvalidModelError("", f"does not answer on its input example: {errors}.")


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
