"""Normalizes cells and column names of tables, the same for all file formats."""

from __future__ import annotations

import base64
import binascii
import math
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np

from mlflow_resnet.errors import InvalidTableError, join_names
from mlflow_resnet.images.decoding.decode import IMAGE_EXTENSIONS, looks_like_image
from mlflow_resnet.images.rules import is_image
from mlflow_resnet.io.text.places import local_path

MAX_PATH_CHARACTERS = 4096  # what no system takes for a path is something else
MIN_BASE64_CHARACTERS = 48  # of the smallest images


def format_cell(cell: object) -> str:
    """Returns a cell as stripped text; empty for null and NaN.

    Whole numbers have no point, so that labels 0 and 1 stay "0" and "1" where pandas made floats of them.
    """
    if isinstance(cell, np.generic):
        cell = cell.item()
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace").strip()  # old programs write text so in Parquet
    if isinstance(cell, float | Decimal):
        if math.isnan(cell):
            return ""
        if math.isfinite(cell) and (whole := int(cell)) == cell and abs(whole) < 2**53:
            return str(whole)
    return str(cell).strip()


def unwrap_cell(cell: Any) -> Any:
    """Returns the item of a list of one, None for an empty list, and any other cell as it is."""
    return (cell[0] if cell else None) if isinstance(cell, list) and len(cell) < 2 else cell


def get_record_content(record: Mapping[str, Any]) -> Any:
    """Returns the `bytes`, or else the `path`, of a record as Hugging Face's data sets have them."""
    content = record.get("bytes")
    return record.get("path") if content is None else content


def decode_base64(encoded: bytes) -> bytes | None:
    """Strictly decoded base64, line breaks aside; None if it is not that."""
    try:
        return base64.b64decode(encoded.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return None


def decode_base64_cell(text: str) -> bytes | None:
    """The image that a cell holds in base64, also as a data URI; None if it does not."""
    encoded = text.partition(";base64,")[2] if text.startswith("data:") else text
    if len(encoded) < MIN_BASE64_CHARACTERS:
        return None
    content = decode_base64("".join(encoded.split()).encode("ascii", "replace"))
    return content if content and looks_like_image(content) else None


def find_column(columns: Iterable[str], wanted: Iterable[str]) -> str:
    """The column that has the first of the `wanted` names that there is, also in another case or with blanks around it.

    Empty if there is none. Raises InvalidTableError if several have that name.
    """
    columns = list(columns)
    for name in wanted:
        alike = [column for column in columns if simplify_name(column) == simplify_name(name)]
        found = [column for column in alike if column == name] or alike
        if len(found) > 1:
            raise InvalidTableError(f"several columns are called {name}: {join_names(map(repr, found))}; rename one")
        if found:
            return found[0]
    return ""


def simplify_name(name: str) -> str:
    """Normalizes a column's name: "File Name" and " file_name" become the same."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def spell_path(text: str) -> list[str]:
    """Returns possible paths for a cell: as written, stripped, and with backslashes as "/".

    A file:// URI names one path.
    """
    trimmed = text.strip()
    if (path := local_path(trimmed)) != trimmed:
        return [path]
    turned = trimmed if "://" in trimmed else trimmed.replace("\\", "/")
    return list(dict.fromkeys((text, trimmed, turned)))


def choose_place(places: list[str]) -> str:
    """Returns the first of `places`, local paths or URIs, that exists.

    A path without an extension, as Kaggle's ids are, means the one image of that name. If none is there, the last.
    """
    local = [place for place in places if "://" not in place and "\0" not in place]
    for place in local:
        with suppress(OSError):
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                return place
    extensions = [*IMAGE_EXTENSIONS, *map(str.upper, IMAGE_EXTENSIONS)]
    bare = [place for place in local if os.path.basename(place) and not is_image(place)]
    found = {place + extension for place in bare for extension in extensions if os.path.lexists(place + extension)}
    return found.pop() if len(found) == 1 else places[-1]
