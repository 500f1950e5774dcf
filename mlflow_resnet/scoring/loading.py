"""Loading a saved model: read, and compared with what its server knows of it. Every loader comes through here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlflow_resnet.errors import InvalidModelError
from mlflow_resnet.model.storage import fetched_model
from mlflow_resnet.model.stored import StoredModel, check_recorded, read_model
from mlflow_resnet.registry.binding import Binding, bind, bind_folder


@contextlib.contextmanager
def verified_model(model_uri: str) -> Iterator[StoredModel]:
    """The model of a URI, read and compared with what its server knows of it; its files are there until the end.

    Raises:
        InvalidModelError: if there is no model of this flavor, or it is not what was saved and logged.
    """
    known = bind(model_uri)
    with fetched_model(known.uri) as path:
        try:
            stored = read_verified(path, known)
        except InvalidModelError as error:
            raise error.about(model_uri) from None
        yield stored


def read_verified(folder: Path, known: Binding | None = None) -> StoredModel:
    """Reads the model in a folder and compares it with what a server knows of it. All loaders do this.

    Args:
        known: None: what the folder itself leads to.

    Raises:
        InvalidModelError: if it is no model of this flavor, or not what was saved and logged.
    """
    stored = read_model(folder)
    if known is None or not known.is_known:
        known = bind_folder(folder)
    check_recorded(stored, known.params, known.model_id)
    return replace(stored, model_id=known.model_id)
