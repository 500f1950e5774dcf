"""Where images and weights come from: a local path as it is, or an object store copied to a temporary folder."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, printable
from mlflow_resnet.images.decode import read_bytes
from mlflow_resnet.images.directories import Walk
from mlflow_resnet.images.reasons import one_line

REMOTE_SCHEMES = ("s3://",)


@dataclass(frozen=True)
class ImageSource:
    """One image to predict: what it is called, and how to get its bytes.

    `read` raises InvalidImageError if there are none to be had.
    """

    name: str
    read: Callable[[], bytes]


def file_source(path: str | os.PathLike[str], called: str | os.PathLike[str] | None = None) -> ImageSource:
    """An image file, called by its path if nothing else is given."""
    return ImageSource(printable(called or path), functools.partial(read_bytes, path))


def directory_sources(walk: Walk, called: str) -> Iterator[ImageSource]:
    """Every image that `walk` finds, called by its place below `called`: a path, or the URI of what was copied."""
    for name in walk.images(""):
        yield file_source(os.path.join(walk.root, name), os.path.join(called, name))


def is_remote(uri: str) -> bool:
    """Whether `uri` has to be copied before it can be read."""
    return uri.startswith(REMOTE_SCHEMES)


def check_directories(*uris: str) -> None:
    """Raises InvalidDatasetError for a local directory that does not exist or is empty, at no cost; "" is not given."""
    for uri in uris:
        if uri and not is_remote(uri):
            Walk(uri)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """The local path of `uri`. What had to be copied is removed at the end.

    Credentials and endpoint are the usual AWS configuration and `MLFLOW_S3_ENDPOINT_URL`.

    Raises:
        InvalidDatasetError: if nothing can be copied from `uri`.
    """
    if not is_remote(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="mlflow-resnet-") as folder:
        yield download(uri, folder)


def download(uri: str, folder: str) -> Path:
    """Copies the object or prefix `uri` below `folder`."""
    from mlflow.artifacts import download_artifacts

    try:
        path = Path(download_artifacts(uri.rstrip("/"), dst_path=folder))
    except Exception as error:  # botocore and MLflow share no base class
        reason = one_line(error)
        raise InvalidDatasetError(uri, f"cannot be copied ({reason}). Check name and AWS credentials.") from None
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        raise InvalidDatasetError(uri, "nothing there. Check the bucket and the prefix.")
    return path
