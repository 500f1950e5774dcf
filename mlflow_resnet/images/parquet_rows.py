"""Rows of a Parquet table, which may be a stranger's: few in memory at once, whatever the file holds."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidTableError
from mlflow_resnet.images.parquet_limits import ParquetLimits, check_parquet, inspect_parquet, repeated_bytes
from mlflow_resnet.images.reasons import one_line

ROWS_AT_ONCE = 1000
MAX_VALUE_BYTES = 2**16  # of a path, a label or a mark
MAX_BATCH_BYTES = 64 * 2**20
LIMITS = ParquetLimits(100_000_000, decoded_bytes=32 * 2**30, page_bytes=64 * 2**20, value_bytes=MAX_VALUE_BYTES)

Row = dict[str, Any]


def read_parquet_columns(path: Path) -> list[str]:
    """The names of the columns at the top. Raises as `read_parquet_rows` does."""
    return check_parquet(path, LIMITS, ()).schema.to_arrow_schema().names


def read_parquet_rows(path: Path, columns: Collection[str], limits: ParquetLimits = LIMITS) -> Iterator[Row]:
    """The values of `columns` in each row; of columns that the table lacks there are none.

    Raises:
        InvalidTableError: if it cannot be read, or is over the limits.
    """
    repeated = inspect_parquet(path, limits, columns)[1]
    try:
        with open(path, "rb") as opened, pq.ParquetFile(opened, read_dictionary=repeated) as file:
            names = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
                for cells in zip(*map(_cells_of, batch.columns), strict=True):
                    yield dict(zip(batch.schema.names, cells, strict=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidTableError(f"damaged ({one_line(error)})") from None


def _cells_of(column: pa.Array) -> list[Any]:
    if max(repeated_bytes(column), column.nbytes) > MAX_BATCH_BYTES:
        raise InvalidTableError(f"its values take more than {MAX_VALUE_BYTES // 2**10} KiB each")
    return column.to_pylist()
