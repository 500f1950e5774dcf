"""A registered version, verified, loaded and tried, as an application that answers like `mlflow models serve`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.pyfunc import PyFuncModel, scoring_server
from starlette.types import ASGIApp

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError, TamperedWeightsError
from mlflow_resnet.images.reasons import one_line
from mlflow_resnet.model.backends.exported import exports_sha256
from mlflow_resnet.model.prediction import PROBABILITY
from mlflow_resnet.model.storage import DATA_SUBPATH, fetched_model, read_description
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.registry.versions import logged_model_of, resolve, uri_of
from mlflow_resnet.scoring.configuration import DEFAULT_MODEL_CONFIG, positive, told_by_operator
from mlflow_resnet.scoring.frame import ERROR
from mlflow_resnet.serving.fitting import check_fits, check_texts
from mlflow_resnet.serving.refusals import NotedModel, ShortRefusals

SUM_TOLERANCE = 1e-3  # float32 over many classes


@dataclass(frozen=True)
class ServedVersion:
    """A version that can answer.

    Attributes:
        model_id: of the logged model that the version is; "" if it is none.
        weights_sha256: verified, hex.
        since: when it was ready, UTC.
        max_images: that a request may have.
        model: in memory as long as this refers to it. `app` does not, because FastAPI keeps what it has served forever.
        app: MLflow's scoring server of this version alone.
    """

    version: ModelVersion
    model_id: str
    weights_sha256: str
    since: str
    max_images: int
    model: PyFuncModel
    app: ASGIApp

    @property
    def uri(self) -> str:
        return uri_of(self.version)

    @property
    def headers(self) -> dict[str, str]:
        """What names the version in an answer. Header values are ASCII, so the name is percent-encoded."""
        named = {"X-Model-Name": quote(self.version.name), "X-Model-Version": str(self.version.version)}
        return named | ({"X-Model-Id": self.model_id} if self.model_id else {})

    def facts(self) -> dict[str, Any]:
        """What `/model` tells of the version."""
        return {
            "name": self.version.name,
            "version": str(self.version.version),
            "model_id": self.model_id or None,
            "weights_sha256": self.weights_sha256,
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
        version = resolve(model_uri)
        with fetched_model(model_uri) as path:
            check_texts(path)
            config_given = leave_only_data(path, model_uri)
            check_fits(path, config_given)
            model_id, sha256 = verified_weights(version, path)
            config = None if device == AUTO else {"device": device}
            model = mlflow.pyfunc.load_model(str(path), suppress_warnings=True, model_config=config)
        noted: Any = NotedModel(weakref.proxy(model))
        app = ShortRefusals(scoring_server.init(noted))  # from here on predict takes what it takes over HTTP
        try_out(model)
    except InvalidOptionsError:
        raise
    except InvalidModelError as error:
        raise InvalidModelError(model_uri, error.problem) from None  # not with the path of the download
    except Exception as error:  # MLflow, torch, databases and disks share no base class
        raise InvalidModelError(model_uri, f"cannot be served ({one_line(error)}).") from None
    max_images = positive(DEFAULT_MODEL_CONFIG | config_given, "max_images_per_request")
    return ServedVersion(version, model_id, sha256, utc_now(), max_images, model, app)


def leave_only_data(path: Path, model_uri: str) -> dict[str, Any]:
    """Rewrites the downloaded MLmodel, so that loading it runs our own loader on our own files and nothing else.

    Returns the configuration that it has.

    Raises:
        InvalidModelError: if the model is of another flavor.
    """
    model = flavor.read_mlmodel(str(path))
    pyfunc = model.flavors.get(mlflow.pyfunc.FLAVOR_NAME, {})
    if flavor.FLAVOR_NAME not in model.flavors or pyfunc.get("loader_module") != flavor.__name__:
        problem = f"its flavors are {', '.join(model.flavors)}; expected {flavor.FLAVOR_NAME}. "
        raise InvalidModelError(model_uri, problem + "Serve it with mlflow models serve.")
    kept = {name: pyfunc[name] for name in ("loader_module", "config") if name in pyfunc}
    model.flavors[mlflow.pyfunc.FLAVOR_NAME] = kept | {"data": DATA_SUBPATH}
    model.save(str(path / MLMODEL_FILE_NAME))
    return dict(kept.get("config") or {}) | told_by_operator()


def verified_weights(version: ModelVersion, path: Path) -> tuple[str, str]:
    """The id of the logged model and the sha256 of the weights, which loading compares with the file itself.

    Params of a logged model cannot be changed, so weights that were exchanged together with their description are
    noticed, if the model was logged with their sha256; and so are exports that were exchanged or added.

    Raises:
        TamperedWeightsError: if the weights are not those that were logged.
    """
    described = str(read_description(path / DATA_SUBPATH).get(flavor.WEIGHTS_SHA256))
    logged = logged_model_of(version)
    if logged is None:
        return "", described
    recorded = logged.params.get(flavor.WEIGHTS_SHA256, described)
    if recorded != described:
        raise TamperedWeightsError(str(path), recorded, described)
    exports = exports_sha256(path / DATA_SUBPATH)
    if exports != logged.params.get(flavor.EXPORTS_SHA256, ""):
        raise TamperedWeightsError(str(path), logged.params.get(flavor.EXPORTS_SHA256, "no exports"), exports)
    return logged.model_id, described


def try_out(model: PyFuncModel) -> None:
    """Predicts on the model's own input example, or on a picture made here if that cannot be read over HTTP.

    Raises:
        InvalidModelError: if the answer is not what the signature says, or no probabilities. The caller names it.
    """
    errors = ""
    for example in examples_of(model):
        frame = pd.DataFrame(model.predict(example))
        signature = model.metadata.get_output_schema()
        if signature and list(frame.columns) != signature.input_names():
            raise InvalidModelError("", f"answers with columns {list(frame.columns)}, not those of its signature.")
        read = frame[frame[ERROR] == ""]
        if len(read):
            return check_probabilities(read)
        errors = one_line(ValueError(*frame[ERROR].head(1)))
    raise InvalidModelError("", f"does not answer on its input example: {errors}.")


def examples_of(model: PyFuncModel) -> Iterator[Any]:
    """The input example that was saved, and a picture made here."""
    if model.input_example is not None:
        yield model.input_example
    yield flavor.default_input_example()


def check_probabilities(frame: pd.DataFrame) -> None:
    """Raises InvalidModelError unless each row has finite probabilities that add up to 1."""
    names = [name for name in frame.columns if name.startswith(PROBABILITY)]
    sums = frame[names].to_numpy(np.float64).sum(axis=1)
    if not (np.abs(sums - 1) <= SUM_TOLERANCE).all():  # a NaN fails too
        raise InvalidModelError("", f"probabilities of its input example add up to {sums[0]:g}, not to 1.")


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
