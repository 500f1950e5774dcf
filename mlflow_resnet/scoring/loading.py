"""Loads a saved model and compares it with its server's record. Every loader comes through here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlflow_resnet.errors import InvalidModelError
from mlflow_resnet.model.storage import StoredModel, check_recorded, fetch_model, read_model
from mlflow_resnet.registry.binding import Binding, bind, bind_folder


@contextlib.contextmanager
def open_verified_model(model_uri: str) -> Iterator[StoredModel]:
    """Yields the model of a URI after comparing it with its server's record; its files stay until the end.

    Raises:
        InvalidModelError: if there is no model of this flavor, or it is not what was saved and logged.
    """
    known = bind(model_uri)
    with fetch_model(known.uri) as path:
        try:
            stored = read_verified(path, known)
        except InvalidModelError as error:
            raise error.about(model_uri) from None
        yield stored


def read_verified(folder: Path, known: Binding | None = None) -> StoredModel:
    """Reads the model in a folder and compares it with a server's record. All loaders do this.

    Args:
        known: None: what the folder itself leads to.

    Raises:
        InvalidModelError: if it is no model of this flavor, or not what was saved and logged.
    """
    stored = read_model(folder)
    if known is None or not known.is_known:
        known = bind_folder(folder)
    check_recorded(stored, known.params, known.owner)
    return replace(stored, model_id=known.model_id)
