"""Recognizes folders that mlflow_resnet or MLflow wrote, by content: they are never classes or images.

People work inside the folder of their images, where `checkpoints` and `mlruns` then lie beside the class folders.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

MARKER = ".mlflow_resnet"  # a file in folders of ours that hold no data set
MARKERS = (MARKER, ".mlflow-resnet-demo", "MLmodel")  # the last one is in every model of MLflow's
INDEX_NAME, LEFT_OUT_NAME = "index.parquet", "left_out.csv"  # what `convert` writes beside the images
BOOKKEEPING = (INDEX_NAME, LEFT_OUT_NAME, MARKER)
STORES = ("mlruns", "mlartifacts")  # where MLflow keeps artifacts below the current folder, unless it is told otherwise

# experiment/run or experiment/models/model or experiment/traces/trace, in all of MLflow's stores of artifacts
_OF_MLFLOW = r"(?:^|/)\d+/(?:[0-9a-f]{32}|models/m-[0-9a-f]{32}|traces/tr-[0-9a-f]{32})"
_FOLDER, _FILE = re.compile(_OF_MLFLOW + "$"), re.compile(_OF_MLFLOW + "/artifacts/")


def mark_own(folder: Path) -> None:
    """Marks `folder` as never a class or an image, unless it has content already."""
    if not any(folder.iterdir()):
        with suppress(OSError):  # whoever writes to it tells
            (folder / MARKER).touch()


def is_own_folder(name: str, path: str) -> bool:
    """Returns whether mlflow_resnet or MLflow wrote the folder at `path`."""
    if any(os.path.lexists(os.path.join(path, marker)) for marker in MARKERS):
        return True
    return bool(_FOLDER.search(name)) and os.path.isdir(os.path.join(path, "artifacts"))


def is_artifact(name: str) -> bool:
    """Returns whether a relative file name is that of an artifact in a store of MLflow's."""
    return bool(_FILE.search(name))
