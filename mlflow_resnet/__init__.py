"""Train torchvision's ResNets on folders of images with MLflow; register, score, promote and serve them.

Names are imported when first used (PEP 562), so that importing the package, or loading one of its plugin entry
points, does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import mlflow  # noqa: F401 - loads our entry points while it is imported, so it must come before our modules do

from mlflow_resnet._version import __version__

_HOMES = {
    "ImageClassifier": "mlflow_resnet.model.classifier",
    "Preprocessing": "mlflow_resnet.model.preprocessing",
    "ScoreImages": "mlflow_resnet.ray",
    "audit": "mlflow_resnet.verbs.audit",
    "champion": "mlflow_resnet.verbs.champion",
    "compare": "mlflow_resnet.verbs.compare",
    "convert": "mlflow_resnet.verbs.convert",
    "demo": "mlflow_resnet.verbs.demo",
    "evaluate": "mlflow_resnet.verbs.evaluate",
    "explain": "mlflow_resnet.verbs.explain",
    "export": "mlflow_resnet.verbs.export",
    "find_lr": "mlflow_resnet.verbs.find_lr",
    "history": "mlflow_resnet.verbs.history",
    "load_model": "mlflow_resnet.flavor",
    "log_model": "mlflow_resnet.flavor",
    "new_classifier": "mlflow_resnet.model.classifier",
    "promote": "mlflow_resnet.verbs.promote",
    "rollback": "mlflow_resnet.verbs.rollback",
    "save_model": "mlflow_resnet.flavor",
    "score": "mlflow_resnet.verbs.score",
    "serve": "mlflow_resnet.verbs.serve",
    "shadow": "mlflow_resnet.verbs.shadow",
    "split": "mlflow_resnet.verbs.split",
    "sweep": "mlflow_resnet.verbs.sweep",
    "train": "mlflow_resnet.verbs.train",
    "transform": "mlflow_resnet.verbs.transform",
}

__all__ = ["__version__"]  # a literal, which linters read
__all__ += _HOMES


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
