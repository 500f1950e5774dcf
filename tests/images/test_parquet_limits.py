"""Small Parquet files that cost much to read are refused before; those that people have are not."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_resnet.errors import InvalidTableError
from mlflow_resnet.io.parquet import MAX_FOOTER_BYTES, ParquetLimits, check_parquet

LIMITS = ParquetLimits(rows=100_000, decoded_bytes=64 * 2**20, page_bytes=16 * 2**20)
NAMES = [f"cat/{number:06d}.jpg" for number in range(20_000)]


def parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def repeated(rows: int, size: int) -> bytes:
    """One value in a dictionary that every row repeats."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * size]))
    return parquet(pa.table({"0": column}), compression="zstd", store_schema=False)


def deeply_nested(levels: int) -> bytes:
    """A footer alone, in Thrift's compact form, with a column inside of so many others."""

    def number(value: int) -> bytes:
        return bytes([value & 127 | 128]) + number(value >> 7) if value > 127 else bytes([value])

    inner, leaf = b"\x35\x00\x18\x01a\x15\x02\x00", b"\x15\x02\x25\x00\x18\x01a\x00"
    footer = b"\x15\x02\x19\xfc" + number(levels + 1) + inner * levels + leaf + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


PHOTOS = [random.Random(number).randbytes(20_000) for number in range(50)]
LEGITIMATE = {
    "an index": parquet(pa.table({"name": NAMES, "label": ["cat"] * len(NAMES), "bytes": range(len(NAMES))})),
    "photos as bytes": parquet(pa.table({"image": [*PHOTOS, random.Random(0).randbytes(2_000_000)]})),
    "one photo many times": parquet(pa.table({"image": [PHOTOS[0]] * 1000})),
    "lists, maps and records": parquet(
        pa.table(
            {
                "label": [["cat", "dog"]] * 1000,
                "facts": pa.array([[("key", "value")]] * 1000, pa.map_(pa.string(), pa.string())),
                "image": [{"bytes": b"x", "path": "1.png"}] * 1000,
            }
        )
    ),
    "pages of version 2": parquet(pa.table({"name": NAMES}), data_page_version="2.0", compression="gzip"),
    "no compression": parquet(pa.table({"name": NAMES}), compression="none"),
    "common beginnings": parquet(
        pa.table({"name": NAMES[:500]}), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"
    ),
    "many groups": parquet(pa.table({"name": NAMES[:200]}), row_group_size=2),
    "only nulls": parquet(pa.table({"name": pa.array([None] * 100, pa.string())})),
    "no rows": parquet(pa.table({"name": pa.array([], pa.string())})),
    "what pandas writes": pd.DataFrame({"a": [1.5, 2], "b": ["x", None]}).to_parquet(),
}
HOSTILE = {
    "20,000 rows of 100 kB": (repeated(20_000, 100_000), "unpacks to more than 64 MiB"),
    "255 rows of 10 MB": (repeated(255, 10_000_000), "unpacks to more than 64 MiB"),
    "100,000 rows of 1 kB": (repeated(100_000, 1000), "unpacks to more than 64 MiB"),
    "records in one row": (
        parquet(pa.table({"0": pa.array([[0] * 6_000_000], pa.list_(pa.int64()))}), compression="zstd"),
        "unpacks to more than 64 MiB",
    ),
    "one beginning for all": (
        parquet(
            pa.table({"0": ["x" * 10**6] * 100}),
            use_dictionary=False,
            column_encoding="DELTA_BYTE_ARRAY",
            compression="zstd",
        ),
        "unpacks to more than 64 MiB",
    ),
    "values of a fixed length": (
        parquet(pa.table({"0": pa.array([b"x" * 10**5] * 20_000, pa.binary(10**5))}), compression="zstd"),
        "unpacks to more than 64 MiB",
    ),
    "a large page": (
        parquet(pa.table({"0": ["x" * 10**6] * 100}), use_dictionary=False, compression="zstd"),
        "a page unpacks to 95 MiB, over 16 MiB",
    ),
    "many rows": (parquet(pa.table({"0": [True] * 200_000})), "200000 rows, over the limit of 100000"),
    "many columns": (
        parquet(pa.table({str(number): [1] for number in range(1001)})),
        "1002 columns, over the limit of 1000",
    ),
    "deep columns, which crash Arrow": (deeply_nested(900), "nested more than 50 deep"),
    "a large footer": (
        b"PAR1" + bytes(MAX_FOOTER_BYTES + 9) + (MAX_FOOTER_BYTES + 1).to_bytes(4, "little") + b"PAR1",
        "its footer takes",
    ),
    "an encrypted footer": (b"PAR1" + bytes(8) + b"PARE", "its footer is encrypted"),
    "a footer of nothing": (b"PAR1\0\1\0\0\0PAR1", "a part is missing"),
    "a text": (b"image,label\n1.png,cat\n", "it does not end as one"),
    "nothing": (b"", "it does not end as one"),
}


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_a_table_as_people_have_them_is_within_the_limits(kind: str) -> None:
    content = LEGITIMATE[kind]
    file = io.BytesIO(content)
    assert check_parquet(file, LIMITS).num_rows == pq.read_metadata(io.BytesIO(content)).num_rows
    file.seek(0)
    assert pd.read_parquet(file) is not None  # it was left open


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_table_that_costs_much_is_refused_at_no_cost(kind: str) -> None:
    content, problem = HOSTILE[kind]
    tracemalloc.start()
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(InvalidTableError, match=problem):
        check_parquet(io.BytesIO(content), LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    assert pa.default_memory_pool().max_memory() - before < 4 * LIMITS.page_bytes
    tracemalloc.stop()


def test_columns_that_nobody_reads_may_be_large(tmp_path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"path": ["1.png"] * 100, "image": ["x" * 10**6] * 100}), path, compression="zstd")
    assert check_parquet(path, LIMITS, ["path"]).num_rows == 100
    with pytest.raises(InvalidTableError, match="unpacks to more than"):
        check_parquet(path, LIMITS)


@pytest.mark.parametrize("kind", ["lists, maps and records", "pages of version 2", "common beginnings", "no rows"])
def test_a_damaged_table_is_one_line_or_still_good(kind: str) -> None:
    refused = 0
    draw = random.Random(kind)
    for _ in range(100):
        content = bytearray(LEGITIMATE[kind])
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(max(0, len(content) - 2000), len(content))] = draw.randrange(256)
        refused += is_refused(lambda content=bytes(content): check_parquet(io.BytesIO(content), LIMITS))
    assert refused > 20


def test_sizes_that_a_footer_lies_about_are_read_from_the_pages() -> None:
    content = bytearray(LEGITIMATE["no compression"])
    columns = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    page = columns.data_page_offset
    assert content[page : page + 2] == b"\x15\x00"  # a page of data; its unpacked size follows
    content[page + 3 : page + 6] = b"\xff\xff\xff"
    assert is_refused(lambda: check_parquet(io.BytesIO(bytes(content)), LIMITS))


def is_refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except InvalidTableError as error:
        return "\n" not in error.message
    return False
