"""Where everything is kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_DIR_VARIABLE = "MLFLOW_RESNET_CACHE"


def cache_folder(cache_dir: str | os.PathLike[str] = "") -> Path:
    """`cache_dir`, else $MLFLOW_RESNET_CACHE, else `mlflow_resnet` in the user's cache directory."""
    if chosen := os.fspath(cache_dir) or os.environ.get(CACHE_DIR_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mlflow_resnet")
