"""Rows of an untrusted Parquet table, read in bounded batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidDatasetError, InvalidTableError
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES
from mlflow_resnet.io.parquet import ParquetLimits, check_parquet, count_repeated_bytes, inspect_parquet
from mlflow_resnet.io.reasons import one_line

ROWS_AT_ONCE = 1000
MAX_VALUE_BYTES = 2**16  # of a path, a label or a mark
MAX_BATCH_BYTES = 64 * 2**20
TABLE_LIMITS = ParquetLimits(100_000_000, decoded_bytes=32 * 2**30, page_bytes=64 * 2**20, value_bytes=MAX_VALUE_BYTES)
# Of a table that holds the images themselves. Writers make pages of up to 1,024 values, however large these are.
IMAGE_LIMITS = ParquetLimits(
    100_000_000, decoded_bytes=100 * 2**30, page_bytes=512 * 2**20, value_bytes=2 * MAX_IMAGE_BYTES
)
BUFFER_BYTES = 2**20

TableRow = dict[str, Any]


def read_parquet_schema(path: Path) -> pa.Schema:
    """The columns, with their types and the metadata of the file. Raises as `read_parquet_rows` does."""
    facts = check_parquet(path, TABLE_LIMITS, ())
    try:
        return facts.schema.to_arrow_schema().with_metadata(facts.metadata)
    except (pa.ArrowException, ValueError) as error:
        raise InvalidTableError(f"damaged ({one_line(error)})") from None


def read_parquet_rows(path: Path, columns: Collection[str], limits: ParquetLimits = TABLE_LIMITS) -> Iterator[TableRow]:
    """The values of `columns` in each row; of columns that the table lacks there are none.

    Raises InvalidTableError if it cannot be read, or is over the limits.
    """
    repeated = inspect_parquet(path, limits, columns)[1]
    try:
        with open(path, "rb") as opened, pq.ParquetFile(opened, read_dictionary=repeated) as file:
            names = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
                if any(max(count_repeated_bytes(each), each.nbytes) > MAX_BATCH_BYTES for each in batch.columns):
                    raise InvalidTableError(f"its values take more than {MAX_VALUE_BYTES // 2**10} KiB each")
                for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield dict(zip(batch.schema.names, cells, strict=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidTableError(f"damaged ({one_line(error)})") from None


def read_image_rows(path: Path, columns: Collection[str]) -> Iterator[TableRow]:
    """Yields rows of a table that holds images, one in memory at a time.

    Raises InvalidTableError if it cannot be read, or is over the limits for images.
    """
    check_parquet(path, IMAGE_LIMITS, columns)
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES) as file:
            names = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(1, columns=names, use_threads=False):
                yield {name: column[0].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidTableError(f"damaged ({one_line(error)})") from None


def find_image_columns(schema: pa.Schema) -> list[str]:
    """The column of images, if there is one, and one only."""
    names = [field.name for field in schema if holds_images(field.type)]
    return names if len(names) == 1 else []


def check_image_column(path: Path, schema: pa.Schema, name: str, advice: str = "") -> bool:
    """Returns whether a column holds the images themselves, and not their paths.

    Raises InvalidDatasetError about the table at `path` if it holds neither.
    """
    kind = schema.field(name).type
    if holds_images(kind):
        return True
    if not holds_text(kind):
        problem = f"column {name!r} is of type {kind}, which is neither a path nor an image."
        raise InvalidDatasetError(path, f"{problem} {advice}".rstrip())
    return False


def holds_images(kind: pa.DataType) -> bool:
    """Whether the cells of a column are images: bytes, or Hugging Face's records of bytes and the name of a file.

    A cell may be a list of one.
    """
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def holds_text(kind: pa.DataType) -> bool:
    """Returns whether each cell of a column is one value, also in a list of one."""
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return not pa.types.is_nested(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_of_type(kind) for is_of_type in tests)
