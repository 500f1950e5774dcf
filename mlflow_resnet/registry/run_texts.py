"""Texts that no tag has room for: artifacts of a run, whose names are their digests.

Whoever reads one compares it with its name, which stands in a tag, so that nobody changes it unnoticed.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import PurePosixPath

import mlflow
from mlflow import MlflowClient

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import read_plain

MOST_TAG_CHARACTERS = 1000  # that a tag of any registry can have; Unity Catalog's limit
MOST_BYTES = 16 * 2**20  # of an artifact
TEXTS_FOLDER = "mlflow_resnet"
RUN_SCHEME = "runs:/"


class LostTextError(MlflowResnetError):
    """An artifact is gone, cannot be read or is not what was written."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(f"{uri} {problem}")


def save_text(run_id: str, text: str) -> str:
    """Writes a text into the artifacts of a run, and returns its URI."""
    path = f"{TEXTS_FOLDER}/{digest_text(text.encode())}.json"
    MlflowClient().log_text(run_id, text, path)
    return f"{RUN_SCHEME}{run_id}/{path}"


def load_text(uri: str) -> str:
    """Reads what `save_text` wrote.

    Raises:
        LostTextError: if it is not to be had, or is something else.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            content = read_plain(mlflow.artifacts.download_artifacts(uri, dst_path=folder), MOST_BYTES)
    except Exception as error:  # stores of artifacts share no base class of errors
        raise LostTextError(uri, f"cannot be read ({one_line(error)})") from None
    if digest_text(content) != PurePosixPath(uri).stem:
        raise LostTextError(uri, "was changed: it does not have the digest that is its name")
    return content.decode()


def digest_text(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
