"""Picks the engine and the precision that predict with a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError, join_names
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.engines import ENGINES, import_package
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.precision import scoring_precision
from mlflow_resnet.model.prepared import Forward
from mlflow_resnet.model.storage import Export, digest_classifier, read_export, read_verified_files
from mlflow_resnet.options.base import AUTO
from mlflow_resnet.options.formats import BACKEND_PRECISIONS

TORCH = "torch"


def prepare_forward(
    classifier: ImageClassifier,
    device: torch.device,
    precision: str = AUTO,
    backend: str = TORCH,
    data: Path | None = None,
    exports: Mapping[str, Export] = MappingProxyType({}),
) -> tuple[str, Forward | None]:
    """Returns the precision to use and a forward function for it; None for torch, the Predictor's default.

    Args:
        precision: `auto` is what was exported for the backend, or else what `scoring_precision` says.
        data: the folder with a folder `backend` of exported files, if there is one.
        exports: what was read of them, by their folders; fp32 and bf16 that are not there are converted here, which
            takes seconds.

    Raises:
        InvalidOptionsError: if there is no such backend, or it cannot compute in that precision or on that device.
        MissingPackageError: if the backend's package is not installed.
        InvalidModelError: if int8 was not exported, or what was exported is not of this classifier.
    """
    check_combination(backend, precision, device)
    if backend == TORCH:
        return precision, None
    engine = ENGINES[backend]
    import_package(engine.packages[0])
    if data and (export := exports.get(backend)) and precision in (AUTO, export.precision):
        return export.precision, load_forward(classifier, data / backend, export)
    if precision == "int8":
        command = f"mlflow-resnet export --format {backend} --precision int8"
        where = str(data / backend) if data else "model"
        raise InvalidModelError(where, f"it holds no int8 model for {backend}; make one: {command} …")
    if precision == AUTO:
        checks = classifier.precision_checks if "bf16" in BACKEND_PRECISIONS[backend] else {}
        precision = scoring_precision(AUTO, device, checks)
    return precision, engine.build_forward(engine.convert(classifier), precision)


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


def check_combination(backend: str, precision: str, device: torch.device) -> None:
    """Raises InvalidOptionsError unless the three can go together."""
    check_backend(backend)
    if precision not in (AUTO, *BACKEND_PRECISIONS[backend]):
        choices = join_names((AUTO, *BACKEND_PRECISIONS[backend]))
        raise InvalidOptionsError([f"precision is {precision!r}; with backend {backend}, choose one of {choices}"])
    if backend != TORCH and device.type != "cpu":
        raise InvalidOptionsError([f"device is {device.type!r}, but backend {backend} uses the CPU; choose cpu"])
