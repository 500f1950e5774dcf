"""Tables with an image's path and its label in each row: CSV, Parquet, JSON lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, InvalidTableError, listed
from mlflow_resnet.images.names import shown
from mlflow_resnet.images.parquet_rows import Row, read_parquet_columns, read_parquet_rows
from mlflow_resnet.images.reasons import one_line
from mlflow_resnet.images.text_rows import read_bounded_lines, read_bounded_rows
from mlflow_resnet.text.spreadsheets import is_ours, unquote

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")
IMAGE_COLUMNS = ("image_url", "image", "path", "image_path", "file", "file_name", "filename", "uri")
LABEL_COLUMNS = ("label", "class", "category")


@dataclass(frozen=True)
class Columns:
    """Names of the columns; empty: the first of the usual names that there is, and no label if there is none."""

    image: str = ""
    label: str = ""


@dataclass(frozen=True)
class Listed:
    """An image that a table or annotations name; `problem` says why it cannot be used, if that shows already."""

    path: str
    label: str
    problem: str = ""


def listed_in_table(path: Path, columns: Columns) -> Iterator[Listed]:
    """Each row's path and label; the label is empty if the table has no such column.

    Raises:
        InvalidDatasetError: if the table cannot be read or lacks the columns.
    """
    image = label = ""
    wanted = {columns.image, columns.label, *IMAGE_COLUMNS, *LABEL_COLUMNS}
    for number, row in enumerate(rows_of(path, wanted), 1):
        if not image:
            image = chosen(path, "image", columns.image, IMAGE_COLUMNS, row)
            label = chosen(path, "label", columns.label, LABEL_COLUMNS, row, needed=False)
        yield listed_row(row, number, image, label)
    if not image:
        raise InvalidDatasetError(path, "a table without rows")


def rows_of(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    """The rows of a table, with all of its columns. In those that are not `wanted` there may be nothing.

    Raises:
        InvalidDatasetError: if it cannot be read, or costs too much to read.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise InvalidDatasetError(path, f"no table of a known kind ({', '.join(READERS)})")
    try:
        yield from read(path, wanted)
    except InvalidTableError as error:
        raise InvalidDatasetError(path, f"cannot be read as a table: {error.message}") from None
    except (OSError, UnicodeError) as error:
        raise InvalidDatasetError(path, f"cannot be read as a table ({one_line(error)})") from None


def chosen(path: Path, what: str, wanted: str, usual: Iterable[str], row: Row, needed: bool = True) -> str:
    """The name of a column."""
    found = next((name for name in ((wanted,) if wanted else usual) if name in row), "")
    if not found and (wanted or needed):
        sought = repr(wanted) if wanted else f"of the usual names ({', '.join(usual)})"
        problem = f"no {what} column {sought}, but {listed(map(repr, row))}. Name it with --{what}-column."
        raise InvalidDatasetError(path, problem)
    return found


def listed_row(row: Row, number: int, image: str, label: str) -> Listed:
    """One row: numbers are taken as they are written, so that a label 7 is "7"."""
    texts, problem = {}, ""
    for column in filter(None, (label, image)):
        cell = row.get(column)
        if isinstance(cell, list) and len(cell) == 1:
            cell = cell[0]
        if isinstance(cell, (list, dict)):
            problem = f"several values in {column}: {shown(cell)}"
        elif cell is None or cell == "":
            problem = f"no {column}"
        texts[column] = str(cell or "")
    return Listed(texts[image] or f"row {number}", texts.get(label, ""), problem)


def csv_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = filter(None, read_bounded_rows(file))
        header = next(rows, [])
        as_meant = unquote if is_ours(header) else str
        for row in rows:
            yield dict.fromkeys(header) | dict(zip(header, map(as_meant, row), strict=False))


def all_parquet_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    others = dict.fromkeys(read_parquet_columns(path))
    for row in read_parquet_rows(path, wanted):
        yield others | row


def jsonl_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(read_bounded_lines(file), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidTableError(f"line {number} is no JSON ({one_line(error)})") from None
            if not isinstance(row, dict):
                raise InvalidTableError(f"line {number} is no JSON object")
            yield row


READERS = {".csv": csv_rows, ".parquet": all_parquet_rows, ".jsonl": jsonl_rows}
