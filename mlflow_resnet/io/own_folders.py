"""What mlflow_resnet and MLflow write, recognized by content: never classes or images. The cache is one of these.

People work inside the folder of their images, where `checkpoints` and `mlruns` then lie beside the class folders.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from mlflow_resnet.errors import OutputError
from mlflow_resnet.io.owned import follow_links, make_private
from mlflow_resnet.io.text.places import local_path, place_problem

CACHE_DIR_VARIABLE = "MLFLOW_RESNET_CACHE"
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


def cache_folder(cache_dir: str | os.PathLike[str] = "") -> Path:
    """Returns the folder for everything that can be made again. Raises OutputError if it is not on this machine.

    That is `cache_dir`, else $MLFLOW_RESNET_CACHE, else `mlflow_resnet` in the user's cache directory.
    """
    chosen = os.fspath(cache_dir) or os.environ.get(CACHE_DIR_VARIABLE)
    if not chosen:
        return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mlflow_resnet")
    if place_problem(chosen, in_s3=False):
        raise OutputError(chosen, f"cannot be the cache, which is on this machine; set {CACHE_DIR_VARIABLE} to a path")
    return Path(local_path(chosen))


def private_cache(cache_dir: str | os.PathLike[str] = "") -> Path:
    """Returns the cache folder, which is made if it is not there and can be.

    Raises OutputError if another user can write to it, and so decides what is read from it.
    """
    folder = follow_links(cache_folder(cache_dir))
    with suppress(OSError):  # whoever writes to it tells
        make_private(folder)
        mark_own(folder)
    return folder


def is_own_folder(name: str, path: str) -> bool:
    """Returns whether mlflow_resnet or MLflow wrote the folder at `path`."""
    if any(os.path.lexists(os.path.join(path, marker)) for marker in MARKERS):
        return True
    return bool(_FOLDER.search(name)) and os.path.isdir(os.path.join(path, "artifacts"))


def is_artifact(name: str) -> bool:
    """Returns whether a relative file name is that of an artifact in a store of MLflow's."""
    return bool(_FILE.search(name))
