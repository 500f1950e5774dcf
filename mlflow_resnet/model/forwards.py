"""Picks the engine and the precision that predict with a classifier."""

from __future__ import annotations

from pathlib import Path

import torch

from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError, join_names
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.engines import ENGINES, import_package
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.precision import scoring_precision
from mlflow_resnet.model.prepared import Forward
from mlflow_resnet.model.storage import Export, StoredModel, digest_classifier, read_export, read_verified_files
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.formats import BACKEND_PRECISIONS

TORCH = "torch"


def prepare_forward(
    stored: StoredModel, device: torch.device, precision: str, backend: str
) -> tuple[str, Forward | None]:
    """Returns the precision to use and a forward function for it; None for torch, the Predictor's default.

    `auto` is the precision that was exported for the backend, or else what `scoring_precision` says. fp32 and bf16 that
    were not exported are converted here, which takes seconds.

    Raises:
        InvalidOptionsError: if there is no such backend, or it cannot compute in that precision or on that device.
        MissingPackageError: if the backend's package is not installed.
        InvalidModelError: if int8 was not exported, or what was exported is not of this classifier.
    """
    check_backend(backend)
    possible = (AUTO, *BACKEND_PRECISIONS[backend])
    if precision not in possible:
        problem = f"precision is {precision!r}; with backend {backend}, choose one of {join_names(possible)}"
        raise InvalidOptionsError([problem])
    if backend == TORCH:
        return precision, None
    if device.type != "cpu":
        raise InvalidOptionsError([f"device is {device.type!r}, but backend {backend} uses the CPU; choose cpu"])
    engine = ENGINES[backend]
    import_package(engine.packages[0])
    folder = stored.data / backend
    if (export := stored.exports.get(backend)) and precision in (AUTO, export.precision):
        return export.precision, load_forward(stored.classifier, folder, export)
    if precision == "int8":
        command = f"mlflow-resnet export --format {backend} --precision int8"
        raise InvalidModelError(str(folder), f"it holds no int8 model for {backend}; make one: {command} …")
    if precision == AUTO:
        checks = stored.classifier.precision_checks if "bf16" in BACKEND_PRECISIONS[backend] else {}
        precision = scoring_precision(AUTO, device, checks)
    return precision, engine.build_forward(engine.convert(stored.classifier), precision)


def load_forward(classifier: ImageClassifier, folder: Path, export: Export | None = None) -> Forward:
    """Loads a forward function from an exported folder. Raises InvalidModelError if it is not of this classifier."""
    export = export or read_export(folder)
    if export.format not in ENGINES or export.classifier_sha256 != digest_classifier(classifier):
        raise InvalidModelError(str(folder), "was exported from another model. Export this one.")
    engine = ENGINES[export.format]
    return engine.build_forward(engine.load(read_verified_files(folder, export)), export.precision)


def usable_device(device: str, backend: str) -> torch.device:
    """`auto` is the CPU for other backends than torch."""
    return pick_device("cpu" if device == AUTO and backend != TORCH else device)


def list_packages(backend: str) -> tuple[str, ...]:
    """Returns the packages that a model for a backend needs besides torch, after importing them, or raises."""
    check_backend(backend)
    needed = () if backend == TORCH else ENGINES[backend].packages
    for package in needed:
        import_package(package)
    return needed


def check_backend(backend: str) -> None:
    if backend not in BACKEND_PRECISIONS:
        raise InvalidOptionsError([f"backend is {backend!r}; choose one of {join_names(BACKEND_PRECISIONS)}"])
