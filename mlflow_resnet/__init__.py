"""Train torchvision's ResNets on folders of images with MLflow; register, score, promote and serve them.

Names are imported when first used (PEP 562): importing the package imports neither torch nor mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mlflow_resnet._version import __version__
from mlflow_resnet.options import VERBS

_HOMES = {verb: f"mlflow_resnet.verbs.{verb}" for verb in VERBS} | {
    "ImageClassifier": "mlflow_resnet.model.classifier",
    "Preprocessing": "mlflow_resnet.model.preprocessing",
    "ScoreImages": "mlflow_resnet.ray",
    "load_model": "mlflow_resnet.flavor",
    "log_model": "mlflow_resnet.flavor",
    "new_classifier": "mlflow_resnet.model.classifier",
    "save_model": "mlflow_resnet.flavor",
}

__all__ = ["__version__"]  # a literal, which linters read
__all__ += _HOMES


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
