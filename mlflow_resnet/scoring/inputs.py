"""The forms of input that predict takes, turned into image sources.

A directory, a file, `s3://…`, bytes, base64 (with or without a data-URI prefix), a list or array or Series of these,
a dict with one list, or a DataFrame with one column of these.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, InvalidOptionsError, listed
from mlflow_resnet.images.decode import MAX_IMAGE_BYTES, looks_like_image
from mlflow_resnet.images.sources import ImageSource, directory_sources, failing_source, file_source, is_remote
from mlflow_resnet.scoring.guard import Guard, is_serving
from mlflow_resnet.text.places import local_path

DATA_URI = re.compile(rb"data:[^,]{0,100};base64,")
MAX_ENCODED_BYTES = MAX_IMAGE_BYTES * 4 // 3 * 79 // 76 + 1024  # base64 with line breaks and a prefix
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
NO_URLS = "URLs are not opened; download the image and pass its path or bytes"


def image_sources(model_input: Any, guard: Guard) -> Iterator[ImageSource]:
    """One source per image, in order; a directory gives one per image file in it. Nothing is opened yet.

    Raises:
        InvalidOptionsError: if the input as a whole has none of the accepted forms, or too many images for HTTP.
        InvalidDatasetError: if the input is one directory, and it cannot be listed. In a list it is only a row.
    """
    single = isinstance(model_input, (str, os.PathLike))
    only_a_row = (InvalidImageError,) if single else (InvalidImageError, InvalidDatasetError)
    if guard.serving:
        cells = list(itertools.islice(cells_of(model_input), guard.max_images + 1))
        guard.check_number(len(cells))
        model_input = cells
    for position, cell in enumerate(cells_of(model_input)):
        name = f"image[{position}]"
        try:
            yield from sources_of_cell(cell, name, guard)
        except only_a_row as error:
            yield failing_source(name, error.message)


def number_of_images(model_input: Any) -> int:
    """Images in a request over HTTP, where every value is one."""
    return sum(1 for _ in cells_of(model_input))


def cells_of(model_input: Any) -> Iterator[Any]:
    """The single values in `model_input`."""
    if isinstance(model_input, pd.DataFrame):
        model_input = image_column(model_input)
    elif isinstance(model_input, dict):
        model_input = image_column(pd.DataFrame({key: pd.Series([value]) for key, value in model_input.items()}))
    if isinstance(model_input, np.ndarray) and model_input.dtype.kind in "biufc":
        problem = f"an array of {model_input.dtype} numbers; pass encoded image files as bytes, or their paths"
        raise InvalidOptionsError([problem])
    if isinstance(model_input, (list, tuple, pd.Series, np.ndarray)):
        for cell in np.ravel(model_input) if isinstance(model_input, np.ndarray) else model_input:
            yield from cells_of(cell)
    else:
        yield model_input


def image_column(frame: pd.DataFrame) -> pd.Series:
    """The only column."""
    if frame.shape[1] == 1:
        return frame.iloc[:, 0]
    names = f"{frame.shape[1]} columns" if is_serving() else f"columns {listed(map(repr, frame.columns))}"
    raise InvalidOptionsError([f"{names}; pass the one with the images alone"])


def sources_of_cell(cell: Any, name: str, guard: Guard) -> Iterator[ImageSource]:
    """The sources that one value stands for. Raises InvalidImageError or InvalidDatasetError if it stands for none."""
    if isinstance(cell, (bytes, bytearray, memoryview)):
        yield bytes_source(name, bytes(cell))
    elif isinstance(cell, (str, os.PathLike)):
        yield from sources_of_text(os.fspath(cell), name, guard)
    else:
        what = "no value" if is_missing(cell) else f"a value of type {type(cell).__name__}"
        raise InvalidImageError(f"{what}; expected bytes, base64 or a path")


def is_missing(cell: Any) -> bool:
    """Whether `cell` is one of the ways in which a table says that there is nothing."""
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def bytes_source(name: str, content: bytes) -> ImageSource:
    """Image bytes, or base64 of them that a table delivered as bytes."""
    if not looks_like_image(content) and (decoded := decoded_image(content)) is not None:
        content = decoded
    check_size(content, MAX_IMAGE_BYTES)
    return ImageSource(name, lambda: content)


def sources_of_text(text: str, name: str, guard: Guard) -> Iterator[ImageSource]:
    """Base64 of an image is an image; anything else is a path, and the guard says whether it may be opened."""
    content = decoded_image(text.encode("ascii", "replace"))
    if content is not None:
        yield bytes_source(name, content)
    elif guard.serving:
        yield guard.file(text)
    elif not URL.match(local_path(text)):
        yield from path_sources(local_path(text))
    elif is_remote(text):
        yield from directory_sources(text, Counter())
    else:
        raise InvalidImageError(NO_URLS)


def decoded_image(encoded: bytes) -> bytes | None:
    """The bytes in a data URI or in base64 of an image; None if `encoded` is neither."""
    check_size(encoded, MAX_ENCODED_BYTES)
    if prefix := DATA_URI.match(encoded):
        content = decode_base64(encoded[prefix.end() :])
        if not content:
            raise InvalidImageError("the data URI holds no valid base64")
        return content
    content = decode_base64(encoded)
    return content if content and looks_like_image(content) else None


def decode_base64(encoded: bytes) -> bytes | None:
    """Strictly decoded base64, line breaks aside; None if it is not that."""
    try:
        return base64.b64decode(encoded.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return None


def check_size(content: bytes, limit: int) -> None:
    """Raises InvalidImageError for more bytes than one image may have, before anything is decoded."""
    if len(content) > limit:
        raise InvalidImageError(f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image")


def path_sources(path: str) -> Iterator[ImageSource]:
    """A file, or every image below a directory."""
    if os.path.isdir(path):
        yield from directory_sources(path, Counter())
    else:
        yield file_source(path)
