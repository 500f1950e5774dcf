"""The MLflow flavor: save_model, log_model, load_model and the pyfunc loader.

The path of this module is written into every saved model (`loader_module`), so it never moves. It only moves bytes:
the files are `mlflow_resnet.model.storage`'s, the predictions `mlflow_resnet.scoring.pyfunc`'s.

mlflow_resnet (native)
    `load_model` returns the ImageClassifier.
mlflow.pyfunc
    `predict` scores directories, files, bytes, base64 and tables of these, see `mlflow_resnet.scoring.inputs`.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelInputExample, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from PIL import Image

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError, OutputError, TamperedModelError, join_names
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.places import local_path, place_problem
from mlflow_resnet.mlflow_seams import CODE_FIELD, make_conda_env
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.forwards import TORCH, list_packages
from mlflow_resnet.model.prediction import IMAGE, Predictor
from mlflow_resnet.model.storage import (
    CODE_SUBPATH,
    DATA_SUBPATH,
    FLAVOR_NAME,
    MODEL_SHA256,
    PACKAGE_FILE,
    check_signature,
    compute_model_sha256,
    copy_export,
    pack_package,
    read_description,
    read_exports,
    read_mlmodel_fields,
    read_model,
    save_classifier,
)
from mlflow_resnet.options.base import AUTO, AZUREML, PLATFORMS
from mlflow_resnet.options.predict import PARAMS
from mlflow_resnet.registry.abilities import Ability, has
from mlflow_resnet.registry.versions import register
from mlflow_resnet.scoring.columns import ERROR, SCORED_LABELS, probability_columns
from mlflow_resnet.scoring.configuration import DEFAULT_MODEL_CONFIG, configure_model, configure_predictor
from mlflow_resnet.scoring.loading import open_verified_model, read_verified
from mlflow_resnet.scoring.pyfunc import ScoringModel

PARAM_TYPES = {int: DataType.long, float: DataType.double, str: DataType.string, bool: DataType.boolean}
PLATFORM_REQUIREMENTS = {  # what the program imports that a platform starts for a model; it is not in its image
    "": (),
    AZUREML: ("azureml-inference-server-http", "azureml-ai-monitoring", "inference-schema"),
}
REQUIREMENTS = ("torch", "torchvision", "pillow", "safetensors", "numpy", "pandas", "boto3")  # predict takes s3://


def get_default_pip_requirements(backend: str = TORCH, serving_for: str = "") -> list[str]:
    """Returns the requirements of a saved model at the installed versions, without this package itself.

    Args:
        serving_for: a platform whose packages are to be among them.
    """
    pins = {name: f"{name}=={version(name).split('+')[0]}" for name in (*REQUIREMENTS, *list_packages(backend))}
    if serving_for == AZUREML and int(version("pandas").partition(".")[0]) > 2:  # which its scoring script cannot use
        pins["pandas"] = "pandas>=2.2,<3"
    return [*pins.values(), *PLATFORM_REQUIREMENTS[serving_for]]


def get_default_conda_env() -> dict[str, Any]:
    """The conda environment that a saved model gets by default."""
    return make_conda_env(get_default_pip_requirements())


def default_signature(classes: tuple[str, ...]) -> ModelSignature:
    """One unnamed string column in: the only signature that takes str, list, bytes and any table alike."""
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, IMAGE),
        ColSpec(DataType.string, SCORED_LABELS),
        *(ColSpec(DataType.double, name) for name in probability_columns(classes)),
        ColSpec(DataType.string, ERROR),
    ]
    params = [ParamSpec(name, PARAM_TYPES[type(default)], default) for name, default in PARAMS.items()]
    return ModelSignature(Schema([ColSpec(DataType.string)]), Schema(columns), ParamSchema(params))


def default_input_example() -> pd.DataFrame:
    """A base64-encoded picture of our own making: no image of the user's data leaves with the model."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return pd.DataFrame([base64.b64encode(file.getvalue()).decode()])


def save_model(
    classifier: ImageClassifier,
    path: str | os.PathLike[str],
    conda_env: dict[str, Any] | str | None = None,
    code_paths: list[str] | None = None,
    mlflow_model: Model | None = None,
    signature: ModelSignature | None = None,
    input_example: ModelInputExample | None = None,
    pip_requirements: list[str] | str | None = None,
    extra_pip_requirements: list[str] | str | None = None,
    metadata: dict[str, Any] | None = None,
    model_config: dict[str, Any] | None = None,
    exports: Sequence[str | os.PathLike[str]] = (),
    serving_for: str = "",
) -> Model:
    """Saves a classifier as an MLflow model at the new directory `path`.

    Args:
        code_paths: more code to carry; this package is always carried, so that the model loads where it is missing.
        pip_requirements: defaults to the installed versions of what loading needs; inference is skipped.
        model_config: the keys of `DEFAULT_MODEL_CONFIG`, changeable when the model is loaded.
        exports: folders that `export` wrote, to travel with the model.
        serving_for: "azureml" adds what its deployment without a script needs to the default requirements.

    The other arguments are those of `mlflow.pyfunc.save_model`.
    """
    path = local_path(os.fspath(path))
    if problem := place_problem(path, in_s3=False):
        raise OutputError(path, problem)
    config = DEFAULT_MODEL_CONFIG | (model_config or {})
    mlflow_model = mlflow_model or Model()
    mlflow_model.add_flavor(
        FLAVOR_NAME,
        data=DATA_SUBPATH,
        architecture=classifier.architecture,
        number_of_classes=len(classifier.classes),
        mlflow_resnet_version=__version__,
    )
    is_default = conda_env is None and pip_requirements is None
    check_serving_for(serving_for, is_default)
    if is_default:
        defaults = get_default_pip_requirements(config["backend"], serving_for)
        pip_requirements, extra_pip_requirements = defaults + list_extra(extra_pip_requirements), None
    mlflow.pyfunc.save_model(
        path,
        loader_module=__name__,
        code_paths=code_paths or None,
        conda_env=conda_env,
        mlflow_model=mlflow_model,
        signature=signature or default_signature(classifier.classes),
        input_example=default_input_example() if input_example is None else input_example,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        metadata=metadata,
        model_config=config,
    )
    add_package(Path(path), mlflow_model)
    add_data(classifier, Path(path), mlflow_model, exports)
    return mlflow_model


def add_package(path: Path, mlflow_model: Model) -> None:
    """Adds this package and has MLflow's loader put it on sys.path: as one archive, or unpacked beside given code."""
    python_function = mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]
    if python_function[CODE_FIELD]:
        ZipFile(io.BytesIO(pack_package())).extractall(path / CODE_SUBPATH)
    else:
        (path / CODE_SUBPATH).mkdir()
        (path / CODE_SUBPATH / PACKAGE_FILE).write_bytes(pack_package())
        python_function[CODE_FIELD] = f"{CODE_SUBPATH}/{PACKAGE_FILE}"


def list_extra(requirements: list[str] | str | None) -> list[str]:
    """Returns the lines of extra requirements; a string is the path of a file of them."""
    return [f"-r {requirements}"] if isinstance(requirements, str) else list(requirements or [])


def check_serving_for(serving_for: str, is_default: bool) -> None:
    """Raises InvalidOptionsError for an unknown platform, or one whose packages have no place.

    Args:
        is_default: whether the requirements of the model are the default ones.
    """
    if serving_for not in PLATFORMS:
        known = join_names(repr(platform) for platform in PLATFORMS)
        raise InvalidOptionsError([f"serving_for is {serving_for!r:.60}; choose one of {known}"])
    if serving_for and not is_default:
        packages = join_names(PLATFORM_REQUIREMENTS[serving_for])
        problem = f"serving_for is {serving_for!r} beside requirements of your own; add {packages} to these instead"
        raise InvalidOptionsError([problem])


def add_data(
    classifier: ImageClassifier, path: Path, mlflow_model: Model, exports: Sequence[str | os.PathLike[str]]
) -> None:
    """Writes the classifier's files and names their folder in MLmodel, where the pyfunc loader looks."""
    data = path / DATA_SUBPATH
    data.mkdir()
    save_classifier(classifier, data)
    for folder in exports:
        copy_export(Path(folder), data)
    mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]["data"] = DATA_SUBPATH
    mlflow_model.model_size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    mlflow_model.save(str(path / MLMODEL_FILE_NAME))
    fields = read_mlmodel_fields(path)
    check_signature(fields, classifier, path)
    digest = compute_model_sha256(fields, read_description(data), read_exports(data))
    mlflow_model.flavors[FLAVOR_NAME][MODEL_SHA256] = digest
    mlflow_model.save(str(path / MLMODEL_FILE_NAME))


def log_model(classifier: ImageClassifier, name: str = "model", **kwargs: Any) -> ModelInfo:
    """Logs a classifier as a model of the active run, or without a run if none is active.

    On a server without logged models it goes to the artifacts of the run, a new one if none is active.

    Args:
        kwargs: arguments of `save_model` and of `mlflow.models.Model.log`, such as `registered_model_name`, `step`,
            `params` and `tags`.
    """
    if not has(Ability.LOGGED_MODELS):
        return log_to_artifacts(classifier, name, **kwargs)
    info = Model.log(None, sys.modules[__name__], name=name, classifier=classifier, **kwargs)
    log_model_sha256(MlflowClient().get_logged_model(info.model_id), info.flavors[FLAVOR_NAME][MODEL_SHA256])
    return info


def log_to_artifacts(
    classifier: ImageClassifier, name: str, registered_model_name: str | None = None, **kwargs: Any
) -> ModelInfo:
    """Logs a classifier to the artifacts of the active run, or of a new one. What a logged model has more is left out.

    Args:
        kwargs: those of `log_model`.
    """
    active, known = mlflow.active_run(), inspect.signature(save_model).parameters
    kept = {key: value for key, value in kwargs.items() if key in known}
    with contextlib.nullcontext(active) if active else mlflow.start_run() as run, tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        save_model(classifier, folder, **kept)
        info = log_artifacts(run.info.run_id, folder, name).get_model_info()
    if registered_model_name:
        info.registered_model_version = register(info.model_uri, registered_model_name).version
    return info


def log_artifacts(run_id: str, folder: Path, name: str) -> Model:
    """Logs the model in a folder to the artifacts of a run, and its digest as a param, which cannot be changed.

    Returns:
        Its description, as it was logged.

    Raises:
        TamperedModelError: if the run has another digest for it.
    """
    description = Model.load(folder)
    description.run_id, description.artifact_path = run_id, name
    description.save(str(folder / MLMODEL_FILE_NAME))
    MlflowClient().log_artifacts(run_id, str(folder), name)
    digest, param = find_sha256(description, folder), f"{MODEL_SHA256}.{name}"
    recorded = MlflowClient().get_run(run_id).data.params.get(param)
    if recorded is None:
        MlflowClient().log_param(run_id, param, digest)
    elif recorded != digest:
        raise TamperedModelError(f"runs:/{run_id}/{name}", "the run", recorded, digest)
    return description


def find_sha256(description: Model, folder: Path) -> str:
    """Returns the digest of the model in a folder, which is not noted if it was saved before there was one."""
    return description.flavors[FLAVOR_NAME].get(MODEL_SHA256) or read_model(folder).sha256


def log_model_sha256(model: LoggedModel, digest: str) -> None:
    """Logs the digest as a param of the logged model, which cannot be changed. TamperedModelError if it has another."""
    recorded = model.params.get(MODEL_SHA256)
    if recorded is None:
        try:
            MlflowClient().log_model_params(model.model_id, {MODEL_SHA256: digest})
            return
        except MlflowException:  # also what is said to a request that arrived twice
            recorded = MlflowClient().get_logged_model(model.model_id).params.get(MODEL_SHA256)
            if recorded is None:
                raise
    if recorded != digest:
        raise TamperedModelError(f"models:/{model.model_id}", "it", recorded, digest)


def load_model(model_uri: str) -> ImageClassifier:
    """Loads the classifier of `model_uri`, on the CPU and in eval mode. Nothing but the model itself is downloaded.

    Raises:
        InvalidModelError: if there is no model of this flavor, or it is not what was saved and logged.
    """
    with open_verified_model(model_uri) as stored:
        return stored.classifier


def load_predictor(
    model_uri: str, device: str = AUTO, num_workers: int = 0, precision: str = AUTO, backend: str = AUTO
) -> Predictor:
    """Returns a predictor for `model_uri`; "auto" is what the model is configured for.

    Raises:
        InvalidModelError, InvalidOptionsError, MissingPackageError: if that cannot be.
    """
    with open_verified_model(model_uri) as stored:
        given = {"device": device, "precision": precision, "backend": backend}
        chosen = {name: value for name, value in given.items() if value != AUTO}
        return configure_predictor(stored, DEFAULT_MODEL_CONFIG | dict(stored.config) | chosen, num_workers)


def read_mlmodel(model_uri: str) -> Model:
    """The MLmodel file of a model."""
    try:
        return Model.load(model_uri)
    except Exception as error:  # YAML too
        raise InvalidModelError(model_uri, f"not an MLflow model ({one_line(error)}).") from None


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ScoringModel:
    """Called by MLflow with the model's data folder and configuration. The device is picked here, not when saved.

    Raises:
        InvalidModelError: if it is not what was saved, or what the server knows of it, if that can be asked.
    """
    return configure_model(read_verified(Path(path).parent), model_config or {})
