"""Bounds the cost of reading a Parquet file before it is read.

A Parquet file of 260 bytes can hold 20,000 rows of 100 kB: pages are compressed, and a dictionary holds a value once
that every row repeats. Footers can lie about sizes, so the headers of the pages are read, which the reader of Arrow
believes too. Nothing is decompressed until all of them are within the limits.

Footers and page headers are in the compact form of Thrift. It is read here only to look at what a file claims before a
library believes it, so whatever is unusual is refused: fields that come twice, structures deeper than Parquet's, and
what ends too early.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidTableError
from mlflow_resnet.io.memory import size_in_words
from mlflow_resnet.io.reasons import one_line

MAX_FOOTER_BYTES = 2 * 2**20  # a thousand times what a table with the columns of an index has
MAX_COLUMNS, MAX_DEPTH = 1000, 50  # Arrow's reader calls itself for each level
MAX_PAGES = 100_000
MAX_PAGE_HEADER_BYTES = 2**20  # statistics may hold whole values
ROWS_PER_CHECK = 10_000

_MAGIC = b"PAR1"
_BYTE_ARRAY, _FIXED_LENGTH = 6, 7
_BYTES_OF_TYPE = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8, _BYTE_ARRAY: 0}
_BYTES_BESIDE_VALUE = 16  # offset, validity, levels
_DATA_PAGES = {0: (5, 2), 3: (8, 4)}  # type of page -> the fields of its header, and of the encoding in that
_DICTIONARY_PAGE = 2
_DICTIONARY_ENCODINGS, _DELTA_BYTE_ARRAY = {2, 8}, 7
# The files of parquet-mr before 1.3 (2013) have bytes between their columns, which Arrow reads too.
_FIRST_WRITERS = re.compile(rb"\s*parquet-mr(?! version (1\.([3-9]|\d\d)|[2-9]))", re.IGNORECASE)

MAX_STRUCT_DEPTH = 16  # Parquet's own structures are 6 deep
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS, _LONG = (4, 5), 6

File = str | os.PathLike[str] | BinaryIO
Struct = dict[int, Any]


class TooManyRowsError(InvalidTableError):
    """A file has more rows than it may."""

    def __init__(self, rows: int, limit: int) -> None:
        self.rows = rows
        super().__init__(over_limit("rows", rows, limit))


@dataclass(frozen=True)
class ParquetLimits:
    """The most that a file may hold.

    Attributes:
        decoded_bytes: of all its columns, once every value stands alone.
        page_bytes: of one page, unpacked.
        value_bytes: of the values in a page, on average; for whoever reads few rows at once to save memory.
    """

    rows: int
    decoded_bytes: int
    page_bytes: int = 128 * 2**20
    value_bytes: int = 2**40


@dataclass
class _Chunk:
    """One column in one group of rows, as its page headers tell it."""

    path: str
    kind: int
    width: int
    values: int = 0
    plain_bytes: int = 0
    largest_page: int = 0
    encodings: set[int] = field(default_factory=set)

    @property
    def most_bytes(self) -> int:
        """Upper bound of the decoded bytes, without values of dictionaries."""
        shared = self.values * self.largest_page if _DELTA_BYTE_ARRAY in self.encodings else 0
        return self.values * (_BYTES_BESIDE_VALUE + self.width) + self.plain_bytes + shared


def check_parquet(file: File, limits: ParquetLimits, columns: Collection[str] | None = None) -> pq.FileMetaData:
    """Makes sure that `columns` of a Parquet file, or all of them, can be read within `limits`. Returns its metadata.

    Takes time and memory in proportion to the file's own bytes and to `limits.page_bytes`, whatever the file claims.

    Args:
        file: a path, or a file that can be read and sought in; it is left open, at any position.
        columns: names of those that will be read, at the top; what is below them counts.

    Raises:
        InvalidTableError: if it is no Parquet file, is damaged, or is over a limit.
        OSError: if there is no such file.
    """
    return inspect_parquet(file, limits, columns)[0]


def inspect_parquet(
    file: File, limits: ParquetLimits, columns: Collection[str] | None = None
) -> tuple[pq.FileMetaData, list[str]]:
    """As `check_parquet`; also the paths of the columns whose values are in dictionaries, whatever the footer says."""
    with ExitStack() as stack:
        opened: BinaryIO = stack.enter_context(open(file, "rb")) if isinstance(file, str | os.PathLike) else file
        try:
            footer, size = _read_footer(opened)
            _check_schema(footer)
            rows = max(footer[3], sum(group[3] for group in footer[4]))
            if rows > limits.rows:
                raise TooManyRowsError(rows, limits.rows)
            chunks = list(_chunks(opened, footer, size, columns, limits))
            opened.seek(0)
            return _check_repeated(opened, chunks, limits)
        except (KeyError, TypeError, IndexError, AttributeError):
            raise InvalidTableError("no Parquet file, or a damaged one (a part is missing)") from None
        except (pa.ArrowException, ValueError, OSError) as error:  # Arrow calls damage an OSError too
            raise InvalidTableError(f"no Parquet file, or a damaged one ({one_line(error)})") from None


def _read_footer(file: BinaryIO) -> tuple[Struct, int]:
    """Returns the footer, and the number of bytes before it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    if size < 12 or end[4:] != _MAGIC:
        raise ThriftError("its footer is encrypted" if end[4:] == b"PARE" else "it does not end as one")
    length = int.from_bytes(end[:4], "little")
    if length > MAX_FOOTER_BYTES:
        raise InvalidTableError(f"its footer takes {size_in_words(length)}, over {size_in_words(MAX_FOOTER_BYTES)}")
    if length > size - 12:
        raise EndsTooEarlyError("it ends too early")
    file.seek(size - 8 - length)
    footer, _ = read_struct(file.read(length))
    if _FIRST_WRITERS.match(footer.get(6, b"")):
        raise InvalidTableError("written by a version of parquet-mr from before 2013; write it anew")
    return footer, size - 8 - length


def _check_schema(footer: Struct) -> None:
    """Arrow's reader of the schema calls itself once for each level."""
    if (columns := len(footer[2])) > MAX_COLUMNS:
        raise InvalidTableError(over_limit("columns", columns, MAX_COLUMNS))
    pending: list[int] = []  # children that are yet to come, of each element around
    for element in footer[2]:
        while pending and pending[-1] == 0:
            pending.pop()
        if pending:
            pending[-1] -= 1
        if children := element.get(5, 0):
            pending.append(children)
        if len(pending) > MAX_DEPTH:
            raise InvalidTableError(f"its columns are nested more than {MAX_DEPTH} deep")


def _chunks(
    file: BinaryIO, footer: Struct, size: int, columns: Collection[str] | None, limits: ParquetLimits
) -> Iterator[_Chunk]:
    """Yields the chunks of the columns that will be read. Together they are no longer than the file, so none is
    read twice."""
    widest = max(element.get(2, 0) for element in footer[2])
    pages, room = MAX_PAGES, size
    for group in footer[4]:
        for column in group[1]:
            facts = column[3]
            names = [name.decode() for name in facts[3]]
            room -= facts[7]
            if facts[7] < 0 or room < 0:
                raise InvalidTableError("damaged: its columns overlap")
            if facts[5] <= 0 or (columns is not None and names[0] not in columns):
                continue  # of no values, no page is read
            width = widest if facts[1] == _FIXED_LENGTH else _BYTES_OF_TYPE[facts[1]]
            chunk = _Chunk(".".join(names), facts[1], max(width, 0))
            pages -= _read_page_headers(file, facts, size, chunk, limits)
            if pages < 0:
                raise InvalidTableError(f"over the limit of {MAX_PAGES} pages; write it anew with larger ones")
            yield chunk


def _read_page_headers(file: BinaryIO, facts: Struct, size: int, chunk: _Chunk, limits: ParquetLimits) -> int:
    """Fills in `chunk`, and returns the number of its pages."""
    first, dictionary = facts[9], facts.get(11, Long(0))
    if not isinstance(dictionary, Long):
        raise ThriftError("a field is of another kind")
    begin = dictionary if 0 < dictionary < first else first
    end, position, count = begin + facts[7], begin, 0
    if begin < 0 or end > size:
        raise EndsTooEarlyError("a column reaches past the end")
    while position < end:
        header, length = _page_header(file, position, end)
        kind, unpacked, packed = header[1], header[2], header[3]
        if packed < 0 or unpacked < 0:
            raise ThriftError("a page has a negative size")
        if kind in _DATA_PAGES:
            place, encoding = _DATA_PAGES[kind]
            values = max(header[place][1], 0)
            chunk.values += values
            chunk.encodings.add(header[place][encoding])
            chunk.plain_bytes += unpacked
            _check_page(unpacked, values, limits)
        elif kind == _DICTIONARY_PAGE:
            _check_page(unpacked, max(header[7][1], 0), limits)
        _check_page(unpacked, limits.page_bytes, limits)
        chunk.largest_page = max(chunk.largest_page, unpacked)
        position += length + packed
        count += 1
        if count > MAX_PAGES:
            return count
    return count


def _page_header(file: BinaryIO, position: int, end: int) -> tuple[Struct, int]:
    for size in (256, 16_384, MAX_PAGE_HEADER_BYTES):
        file.seek(position)
        content = file.read(min(size, end - position))
        try:
            return read_struct(content)
        except EndsTooEarlyError:
            if len(content) < size:
                raise
    raise ThriftError("the header of a page is too long")


def _check_repeated(file: BinaryIO, chunks: list[_Chunk], limits: ParquetLimits) -> tuple[pq.FileMetaData, list[str]]:
    """Adds up the values of dictionaries as often as they are used, without repeating them."""
    total = sum(chunk.most_bytes for chunk in chunks)
    _check_size(total, limits)
    repeated = [chunk for chunk in chunks if chunk.kind == _BYTE_ARRAY and chunk.encodings & _DICTIONARY_ENCODINGS]
    names = sorted({chunk.path for chunk in repeated})
    parquet = pq.ParquetFile(file, read_dictionary=names)
    if total + sum(chunk.values * chunk.largest_page for chunk in repeated) > limits.decoded_bytes:
        for batch in parquet.iter_batches(ROWS_PER_CHECK, columns=names, use_threads=False):
            total += sum(map(count_repeated_bytes, batch.columns))
            _check_size(total, limits)
    return parquet.metadata, names


def count_repeated_bytes(array: Any) -> int:
    """Bytes of the values of dictionaries in an array, each as often as it is used."""
    if isinstance(array, pa.ExtensionArray):
        return count_repeated_bytes(array.storage)
    if pa.types.is_dictionary(array.type):
        lengths = pc.take(pc.cast(pc.binary_length(array.dictionary), pa.int64()), array.indices)
        return pc.sum(lengths).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(count_repeated_bytes, array.flatten()))
    if pa.types.is_map(array.type):
        return count_repeated_bytes(array.keys) + count_repeated_bytes(array.items)
    return count_repeated_bytes(array.flatten()) if pa.types.is_nested(array.type) else 0


def _check_page(size: int, values: int, limits: ParquetLimits) -> None:
    if size > limits.page_bytes:
        raise InvalidTableError(f"a page unpacks to {size_in_words(size)}, over {size_in_words(limits.page_bytes)}")
    if size > 2**20 + values * limits.value_bytes:
        raise InvalidTableError(f"its values take more than {size_in_words(limits.value_bytes)} each")


def _check_size(size: int, limits: ParquetLimits) -> None:
    if size > limits.decoded_bytes:
        limit = size_in_words(limits.decoded_bytes)
        raise InvalidTableError(f"it unpacks to more than {limit}; send or write it in parts")


def over_limit(what: str, count: int, limit: int) -> str:
    return f"{count} {what}, over the limit of {limit}; send or write it in parts"


class Long(int):
    """A number written as one of 64 bits. A reader that expects 32 bits passes over it, and the other way round."""


class ThriftError(ValueError):
    """The content is not the Thrift that Parquet writes."""


class EndsTooEarlyError(ThriftError):
    """The structure is longer than the content."""


def read_struct(content: bytes) -> tuple[Struct, int]:
    """The structure that `content` begins with, by the numbers of its fields, and its size. Raises ThriftError."""
    reader = _Reader(content)
    return reader.struct(0), reader.position


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def byte(self) -> int:
        return self.skip(1)[0]

    def skip(self, size: int) -> bytes:
        begin, self.position = self.position, self.position + size
        if self.position > len(self.content):
            raise EndsTooEarlyError("it ends too early")
        return self.content[begin : self.position]

    def varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ThriftError("a number is too long")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int) -> Struct:
        if depth > MAX_STRUCT_DEPTH:
            raise ThriftError("its structures are nested too deeply")
        found: Struct = {}
        number = 0
        while (header := self.byte()) & 0x0F != _STOP:
            number = number + (header >> 4) if header >> 4 else self.zigzag()
            if number in found:
                raise ThriftError("a field comes twice")
            kind = header & 0x0F
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self.value(kind, depth)
        return found

    def value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self.zigzag()
        if kind == _LONG:
            return Long(self.zigzag())
        if kind == _BINARY:
            return self.skip(self.varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self.items(depth)
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a truth takes a byte too
            return self.byte()
        if kind == _DOUBLE:
            return self.skip(8)
        raise ThriftError("it has a field of a kind that Parquet does not use")

    def items(self, depth: int) -> list[Any]:
        header = self.byte()
        count = header >> 4 if header >> 4 < 15 else self.varint()
        if depth > MAX_STRUCT_DEPTH or count > len(self.content) - self.position:  # every item takes a byte at least
            raise ThriftError("a list is longer than what it is in")
        return [self.value(header & 0x0F, depth + 1) for _ in range(count)]
