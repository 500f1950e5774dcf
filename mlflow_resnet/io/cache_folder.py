"""The folder for everything that can be made again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mlflow_resnet.errors import OutputError
from mlflow_resnet.io.own_folders import mark_own
from mlflow_resnet.io.owned import follow_links, make_private
from mlflow_resnet.io.text.places import local_path, place_problem

CACHE_DIR_VARIABLE = "MLFLOW_RESNET_CACHE"


def cache_folder(cache_dir: str | os.PathLike[str] = "") -> Path:
    """`cache_dir`, else $MLFLOW_RESNET_CACHE, else `mlflow_resnet` in the user's cache directory.

    Raises:
        OutputError: if that is not on this machine.
    """
    if chosen := os.fspath(cache_dir) or os.environ.get(CACHE_DIR_VARIABLE):
        if place_problem(chosen, in_s3=False):
            problem = f"cannot be the cache, which is on this machine; set {CACHE_DIR_VARIABLE} to a path"
            raise OutputError(chosen, problem)
        return Path(local_path(chosen))
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mlflow_resnet")


def private_cache(cache_dir: str | os.PathLike[str] = "") -> Path:
    """The cache folder, which is made if it is not there and can be.

    Raises:
        OutputError: if another user can write to it, and so decides what is read from it.
    """
    folder = follow_links(cache_folder(cache_dir))
    with suppress(OSError):  # whoever writes to it tells
        make_private(folder)
        mark_own(folder)
    return folder
