"""The table that `convert` writes beside the images, or instead of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.images.reasons import one_line
from mlflow_resnet.images.rules import INDEX_NAME

SOURCE, TRANSFER = "mlflow_resnet.source", "mlflow_resnet.transfer"  # facts about the conversion


@dataclass(frozen=True)
class IndexRow:
    """One image: its name below the directory, and what is known of its file.

    Attributes:
        label: class, empty if there is none.
        source: where it came from: a path, an `s3://` URI, or `archive.zip!member`.
        width, height: pixels, as a person sees the picture.
        sha256: of the file's content.
    """

    name: str
    label: str
    source: str
    bytes: int
    width: int
    height: int
    sha256: str


SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.string()),
        ("source", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
    ]
)


def write_index(folder: Path, rows: Iterable[IndexRow], facts: Mapping[str, str]) -> None:
    """Writes `rows` in the order of their names; `facts` become metadata of the file."""
    table = pa.Table.from_pylist([asdict(row) for row in sorted(rows, key=lambda row: row.name)], SCHEMA)
    pq.write_table(table.replace_schema_metadata(dict(facts)), folder / INDEX_NAME)


def read_index(folder: str | os.PathLike[str]) -> tuple[list[IndexRow], dict[str, str]]:
    """The rows and the facts of the index in `folder`; nothing if there is none.

    Raises:
        InvalidDatasetError: if it cannot be read.
    """
    path = Path(folder, INDEX_NAME)
    if not path.is_file():
        return [], {}
    try:
        table = pq.read_table(path)
        rows: list[dict[str, Any]] = table.select(SCHEMA.names).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InvalidDatasetError(path, f"is no index of ours ({one_line(error)}). Remove it.") from None
    metadata = table.schema.metadata or {}
    return [IndexRow(**row) for row in rows], {key.decode(): value.decode() for key, value in metadata.items()}


def referenced_rows(folder: str | os.PathLike[str]) -> list[IndexRow]:
    """The rows of an index whose images are elsewhere, at their `source`; nothing if they are in `folder` itself."""
    if not Path(folder, INDEX_NAME).is_file():
        return []
    rows, facts = read_index(folder)
    return rows if facts.get(TRANSFER) == "reference" else []
