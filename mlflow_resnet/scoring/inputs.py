"""The forms of input that predict takes, turned into image sources.

A directory, a file, `s3://…`, bytes, base64 (with or without a data-URI prefix), a list or array of these; or a table:
a DataFrame, a Series, a dict of lists, or a list of dicts. In a list a directory stands for every image in it. Each row
of a table is one image, and of several columns the one with the images is found by its name.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, InvalidOptionsError, encodable, join_names
from mlflow_resnet.images.cells import decode_base64, get_record_content
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES, looks_like_image
from mlflow_resnet.images.sources import ImageSource, directory_sources, file_source, make_failing_source, object_source
from mlflow_resnet.io.s3.access import connect_s3
from mlflow_resnet.io.text.places import is_remote, local_path
from mlflow_resnet.options.predict import explain_unknown_params
from mlflow_resnet.scoring.over_http.guard import Guard, is_serving
from mlflow_resnet.scoring.over_http.servers import is_mlserver

DATA_URI = re.compile(rb"data:[^,]{0,100};base64,")
MAX_ENCODED_BYTES = MAX_IMAGE_BYTES * 4 // 3 * 79 // 76 + 1024  # base64 with line breaks and a prefix
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
NO_URLS = "URLs are not opened; download the image and pass its path or bytes"
A_FOLDER = "a folder; each row of a table is one image, so pass folders alone or in a list"
# What a table's column of images is called, in lower case, letters and digits only: content goes before paths.
COLUMN_NAMES = (
    *("image", "images", "img", "picture", "photo", "content", "bytes"),
    *("imagebytes", "imagecontent", "imagedata", "imagebase64", "imageb64", "base64", "b64"),
    *("imagepath", "imgpath", "picturepath", "photopath", "imagefile", "imgfile", "imagefilename", "imagename"),
    *("path", "filepath", "file", "filename"),
    *("imageuri", "imageurl", "uri", "url"),
)
LONGEST_COLUMN_NAME = 50
LOADER = "mlflow_resnet.flavor"  # `flavor.__name__`, by which MLflow tells whose model it is
COLUMNS_CANNOT_BE_USED = "the input cannot be used: of several columns, one must be named image"
V2_PARAMETERS = (  # of a request of the Open Inference Protocol, which MLServer hands to predict with the model's own
    *("content_type", "headers", "binary_data_output", "priority", "timeout"),
    *("sequence_id", "sequence_start", "sequence_end"),
)
NUMBERS_CANNOT_BE_USED = "the input cannot be used: its column of images holds numbers"


def image_sources(model_input: Any, guard: Guard) -> Iterator[ImageSource]:
    """One source per image, in order; a directory gives one per image file in it. Nothing is opened yet.

    Raises:
        InvalidOptionsError: if the input as a whole has none of the accepted forms, or too many images for HTTP.
        InvalidDatasetError: if the input is one directory, and it cannot be listed. In a list it is only a row.
    """
    single = isinstance(model_input, (str, os.PathLike))
    only_a_row = (InvalidImageError,) if single else (InvalidImageError, InvalidDatasetError)
    table = as_table(model_input)
    cells: Iterable[Any] = list_cells(model_input if table is None else table)
    if guard.serving:
        cells = list(itertools.islice(cells, guard.max_images + 1))
        guard.check_number(len(cells))
    for position, cell in enumerate(cells):
        name = f"image[{position}]"
        try:
            if table is None:
                yield from list_cell_sources(cell, name, guard)
            else:
                yield make_row_source(cell, name, guard)
        except only_a_row as error:
            yield make_failing_source(name, error.message)


def as_table(model_input: Any) -> pd.DataFrame | None:
    """Returns any form of a table as a DataFrame with all columns; None for anything else.

    Raises:
        InvalidOptionsError: for rows of several values whose columns have no names.
    """
    if isinstance(model_input, pd.DataFrame):
        return model_input
    if isinstance(model_input, pd.Series):
        return model_input.to_frame()
    if isinstance(model_input, dict):
        return pd.DataFrame({name: pd.Series(as_column(value), dtype=object) for name, value in model_input.items()})
    if isinstance(model_input, (list, tuple)) and model_input:
        if all(isinstance(row, dict) for row in model_input):
            return pd.DataFrame(list(model_input))
        has_rows = any(isinstance(row, (list, tuple)) and len(row) > 1 for row in model_input)
    else:
        is_array = isinstance(model_input, np.ndarray) and model_input.dtype.kind not in "biufc"
        has_rows = is_array and model_input.ndim > 1 and model_input.shape[-1] > 1
    if has_rows:
        problem = "rows of several values without names; pass the images alone, or a table with names"
        raise InvalidOptionsError([problem])
    return None


def as_column(value: Any) -> list[Any]:
    """Returns the value of a dict as a list."""
    if isinstance(value, np.ndarray):
        return np.ravel(value).tolist()
    return list(value) if isinstance(value, (list, tuple, pd.Series)) else [value]


def list_cells(model_input: Any) -> Iterator[Any]:
    """The single values in `model_input`."""
    if (table := as_table(model_input)) is not None:
        yield from image_column(table)
        return
    if isinstance(model_input, np.ndarray) and model_input.dtype.kind in "biufc":
        problem = f"an array of {model_input.dtype} numbers; pass encoded image files as bytes, or their paths"
        raise InvalidOptionsError([problem])
    if isinstance(model_input, (list, tuple, np.ndarray)):
        for cell in np.ravel(model_input) if isinstance(model_input, np.ndarray) else model_input:
            yield from list_cells(cell)
    else:
        yield model_input


def check_input(
    original: Callable[..., Any], data: Any, params: Any, input_schema: Any, params_schema: Any, flavor: Any = None
) -> tuple[Any, Any]:
    """Extends `original`, by which MLflow compares input and params with the signature of a model, if that is ours.

    Of the one unnamed column of our signature, which alone takes texts, bytes, lists and tables, MLflow makes "the
    first column", whatever is in it; and it drops params that it does not know. It has no hook for either. Here a
    table comes out with its column of images alone, and all else as a list.

    Raises:
        InvalidOptionsError: if a table has no column of images, or a param is unknown.
    """
    if flavor != LOADER:
        return original(data, params, input_schema, params_schema, flavor)
    if isinstance(params, dict) and is_mlserver():
        params = {name: value for name, value in params.items() if name not in V2_PARAMETERS}
    if params_schema is not None and isinstance(params, dict):
        known = [param.name for param in params_schema.params]
        if unknown := [name for name in params if name not in known]:
            raise explain_unknown_params(() if is_serving() else unknown, known)
    if input_schema is None or input_schema.is_tensor_spec() or input_schema.has_input_names():
        return original(data, params, input_schema, params_schema, flavor)  # a signature of the caller's own
    table = as_table(data)
    given = data if table is None else image_column(table).to_frame()
    checked, params = original(given, params, input_schema, params_schema, flavor)
    if table is None and isinstance(checked, pd.DataFrame):
        checked = checked.iloc[:, 0].tolist()
    return checked, params


def image_column(table: pd.DataFrame) -> pd.Series:
    """Returns the image column as Python objects: the only one, or the one named so.

    Raises:
        InvalidOptionsError: if none is, or several are equally, or it holds numbers.
    """
    column = table.iloc[:, find_image_position(table)]
    if holds_numbers(column):
        problem = f"a column of {column.dtype} numbers; pass encoded image files as bytes, or their paths"
        raise InvalidOptionsError([NUMBERS_CANNOT_BE_USED if is_serving() else problem])
    return column.astype(object)


def find_image_position(table: pd.DataFrame) -> int:
    """Returns the position of the image column. Columns of numbers have none, whatever they are called."""
    if table.shape[1] == 1:
        return 0
    texts = [str(name)[:LONGEST_COLUMN_NAME].casefold() for name in table.columns]
    names = [re.sub(r"[^a-z0-9]", "", text) for text in texts]
    usual = [place for place, name in enumerate(names) if name in COLUMN_NAMES]
    usual = [place for place in usual if not holds_numbers(table.iloc[:, place])]
    best = min(usual, key=lambda place: COLUMN_NAMES.index(names[place]), default=None)
    if best is not None and [names[place] for place in usual].count(names[best]) == 1:
        return best
    columns = f"columns {join_names(map(repr, table.columns))}" if table.shape[1] else "a table without columns"
    problem = f"{columns}; pass the one with the images alone, or name it 'image'"
    raise InvalidOptionsError([COLUMNS_CANNOT_BE_USED if is_serving() else problem])


def holds_numbers(column: pd.Series) -> bool:
    """Returns whether a column has a numeric type, and is not merely empty."""
    return bool(pd.api.types.is_numeric_dtype(column.dtype) and column.notna().any())


def list_cell_sources(cell: Any, name: str, guard: Guard) -> Iterator[ImageSource]:
    """The sources that one value stands for. Raises InvalidImageError or InvalidDatasetError if it stands for none."""
    if isinstance(cell, (str, os.PathLike)) and not guard.serving:
        text = local_path(os.fspath(cell))
        if is_remote(text) or (not URL.match(text) and os.path.isdir(text)):
            yield from directory_sources(text, Counter())
            return
    yield make_row_source(cell, name, guard)


def make_row_source(cell: Any, name: str, guard: Guard) -> ImageSource:
    """The one image that a value stands for. Raises InvalidImageError or InvalidDatasetError if it stands for none."""
    if isinstance(cell, np.ndarray) and cell.ndim == 0:
        cell = cell.item()
    if isinstance(cell, Mapping):
        cell = get_record_content(cell)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes_source(name, bytes(cell))
    if isinstance(cell, (str, os.PathLike)):
        return make_text_source(os.fspath(cell), name, guard)
    is_missing = pd.api.types.is_scalar(cell) and pd.isna(cell)  # null in any of the forms that tables have
    what = "no value" if is_missing else f"a value of type {type(cell).__name__}"
    raise InvalidImageError(f"{what}; expected bytes, base64 or a path")


def bytes_source(name: str, content: bytes) -> ImageSource:
    """Image bytes, or base64 of them that a table delivered as bytes."""
    if not looks_like_image(content) and (decoded := decode_encoded_image(content)) is not None:
        content = decoded
    check_size(content, MAX_IMAGE_BYTES)
    return ImageSource(name, lambda: content)


def make_text_source(text: str, name: str, guard: Guard) -> ImageSource:
    """Returns a source for base64 of an image, or else for a path if the guard allows it."""
    content = decode_encoded_image(text.encode("ascii", "replace"))
    if content is not None:
        return bytes_source(name, content)
    if guard.serving:
        return guard.file(text)
    if is_remote(text):
        return object_source(connect_s3(text), text, text, "")
    text = local_path(text)
    if URL.match(text):
        raise InvalidImageError(NO_URLS)
    if os.path.isdir(text):
        return make_failing_source(encodable(text), A_FOLDER)
    return file_source(text)


def decode_encoded_image(encoded: bytes) -> bytes | None:
    """The bytes in a data URI or in base64 of an image; None if `encoded` is neither."""
    check_size(encoded, MAX_ENCODED_BYTES)
    if prefix := DATA_URI.match(encoded):
        content = decode_base64(encoded[prefix.end() :])
        if not content:
            raise InvalidImageError("the data URI holds no valid base64")
        return content
    content = decode_base64(encoded)
    return content if content and looks_like_image(content) else None


def check_size(content: bytes, limit: int) -> None:
    """Raises InvalidImageError for more bytes than one image may have, before anything is decoded."""
    if len(content) > limit:
        raise InvalidImageError(f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image")
