"""Tables with an image in each row, by its path or itself, and its label: CSV, Parquet, JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, InvalidTableError, join_names
from mlflow_resnet.images.cells import (
    MAX_PATH_CHARACTERS,
    decode_base64_cell,
    find_column,
    format_cell,
    get_record_content,
    unwrap_cell,
)
from mlflow_resnet.images.parquet_rows import (
    TableRow,
    check_image_column,
    find_image_columns,
    holds_text,
    read_image_rows,
    read_parquet_rows,
    read_parquet_schema,
)
from mlflow_resnet.images.rules import is_image
from mlflow_resnet.io.file_names import quote_name
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.rows import describe_encoding, open_text, read_bounded_lines, read_bounded_rows
from mlflow_resnet.io.text.spreadsheets import is_ours, strip_quote
from mlflow_resnet.io.untrusted import parse_fields
from mlflow_resnet.options.convert import ConvertOptions

ReadRows = Callable[[Path, Collection[str]], Iterator[TableRow]]

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")
IMAGE_COLUMNS = ("image_url", "image", "path", "image_path", "file", "file_name", "filename", "uri", "img")
LABEL_COLUMNS = ("label", "class", "category", "labels", "class_name", "category_name")
MAX_TABLE_COLUMNS = 1000
MORE = "cells beyond the header"  # not the name of a column, which has no such
WHOLE = re.compile(r"-?\d+\.0+")


@dataclass(frozen=True)
class Table:
    """A table and the roles of its columns.

    Attributes:
        image, label: the columns of images and labels; `label` is empty if there is none.
        others: all other columns.
        has_images: the images themselves are in their column, and not their paths.
        classes: what the numbers in the column of labels stand for, from 0; empty if they stand for themselves.
        has_points: every label is a whole number with a point, as pandas writes it if some rows have none.
    """

    path: Path
    image: str
    label: str
    others: tuple[str, ...] = ()
    has_images: bool = False
    classes: tuple[str, ...] = ()
    has_points: bool = False

    def notes(self) -> Iterator[str]:
        """Yields sentences about the table for the result of a conversion."""
        if not self.label and self.others:
            unused = join_names(map(repr, self.others))
            yield f"no column of labels among the usual names; not used: {unused}. Name one with --label-column"
        if self.has_points:
            yield f"labels such as 1.0 in column {self.label!r} are taken as whole numbers, such as 1"


@dataclass(frozen=True)
class Listed:
    """An image that a table or annotations name.

    Attributes:
        problem: why it cannot be used, if that shows already.
        row: what it is called if it has no path.
        content: the image itself, if it is in the table; `path` is then what it was called elsewhere, or empty.
    """

    path: str
    label: str
    problem: str = ""
    row: str = ""
    content: bytes | None = None


def open_table(path: Path, options: ConvertOptions) -> Table:
    """Finds out which columns have the images and the labels.

    Raises InvalidDatasetError if the table cannot be read, or lacks the columns.
    """
    if path.suffix.lower() == ".parquet":
        with table_errors(path):
            return open_parquet(path, options)
    names = read_table_columns(path)
    if not names:
        raise InvalidDatasetError(path, "a table without rows")
    table = choose_columns(path, options, names)
    if not table.label or path.suffix.lower() != ".csv":
        return table
    labels = filter(None, (format_cell(row.get(table.label)) for row in read_rows(path, (table.label,))))
    has_points = WHOLE.fullmatch(next(labels, "")) is not None and all(map(WHOLE.fullmatch, labels))
    return replace(table, has_points=has_points)


def open_parquet(path: Path, options: ConvertOptions) -> Table:
    schema = read_parquet_schema(path)
    features = read_features(schema.metadata or {})
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    more_labels = labels if len(labels) == 1 else ()
    table = choose_columns(path, options, schema.names, find_image_columns(schema), more_labels)
    has_images = check_image_column(path, schema, table.image, "Name another with --image-column.")
    if table.label and not holds_text(schema.field(table.label).type):
        problem = f"column {table.label!r} is of type {schema.field(table.label).type}, which is no label"
        raise InvalidDatasetError(path, f"{problem}. Name another with --label-column.")
    names = features.get(table.label, {}).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = []
    return replace(table, has_images=has_images, classes=tuple(map(str.strip, names)))


def read_features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What Hugging Face writes about columns, such as {"label": {"names": ["cat"], "_type": "ClassLabel"}}."""
    try:
        features = parse_fields(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def choose_columns(
    path: Path,
    options: ConvertOptions,
    names: Sequence[str],
    more_images: Iterable[str] = (),
    more_labels: Iterable[str] = (),
) -> Table:
    """Args: more_images, more_labels: other names that the columns may have, after the usual ones."""
    image = choose_column(path, "image", options.image_column, (*IMAGE_COLUMNS, *more_images), names)
    label = choose_column(path, "label", options.label_column, (*LABEL_COLUMNS, *more_labels), names, needed=False)
    return Table(path, image, label, tuple(name for name in names if name not in (image, label)))


def choose_column(
    path: Path, what: str, wanted: str, usual: Sequence[str], names: Sequence[str], needed: bool = True
) -> str:
    """The name of a column: the `wanted` one, or the first of the usual ones.

    Raises InvalidDatasetError if there is none, or several have that name.
    """
    try:
        found = find_column(names, (wanted,) if wanted else usual)
    except InvalidTableError as error:
        raise InvalidDatasetError(path, error.message) from None
    if not found and (wanted or needed):
        if not wanted and any(map(is_image, names)):
            raise InvalidDatasetError(path, "its first line is an image. Add one before it, such as image,label.")
        sought = repr(wanted) if wanted else f"of the usual names ({', '.join(usual)})"
        problem = f"no {what} column {sought}, but {join_names(map(repr, names))}. Name it with --{what}-column."
        raise InvalidDatasetError(path, problem)
    return found


def list_table(table: Table) -> Iterator[Listed]:
    """Each row's image and label; the label is empty if the table has no such column.

    Raises InvalidDatasetError if the table cannot be read, or has no rows.
    """
    number, wanted = 0, {table.image, table.label} - {""}
    read = read_image_rows if table.has_images else find_reader(table.path)
    with table_errors(table.path):
        for number, row in enumerate(read(table.path, wanted), 1):
            yield list_row(table, row, number)
    if not number:
        raise InvalidDatasetError(table.path, "a table without rows")


def list_row(table: Table, row: TableRow, number: int) -> Listed:
    """One row as an image with a label."""
    called = f"row {number}"
    label, problem = read_label(table, row) if table.label else ("", "")
    if row.get(MORE):
        problem = "more cells than the header has; put quotation marks around text with a comma"
    image = unwrap_cell(row.get(table.image))
    name = ""
    if isinstance(image, dict) and table.has_images:
        name, image = image.get("path") or "", get_record_content(image)
    if isinstance(image, bytes) and table.has_images:
        return Listed(name, label, problem, called, image)
    if isinstance(image, dict | list):
        return Listed("", label, problem or f"several values in {table.image}", called)
    text = image if isinstance(image, str) else format_cell(image)
    if not text.strip():
        problem = problem or f"no {table.image}"
    elif (encoded := decode_base64_cell(text)) is not None:
        return Listed("", label, problem, called, encoded)
    elif len(text) > MAX_PATH_CHARACTERS:
        return Listed("", label, problem or f"{len(text)} characters in {table.image}, which are no path", called)
    return Listed(text, label, problem, called)


def read_label(table: Table, row: TableRow) -> tuple[str, str]:
    """Returns the label of a row, and the problem with it."""
    cell = unwrap_cell(row.get(table.label))
    if isinstance(cell, list | dict):
        return "", f"several values in {table.label}: {quote_name(cell)}"
    if table.classes and isinstance(cell, int):
        if cell >= len(table.classes):
            return "", f"{table.label} {cell} is none of the {len(table.classes)} classes of the table"
        cell = table.classes[cell] if cell >= 0 else None  # -1 says that there is none
    label = format_cell(cell)
    if table.has_points:
        label = label.partition(".")[0]
    return label, "" if label else f"no {table.label}"


@contextmanager
def table_errors(path: Path) -> Iterator[None]:
    """Any reason why a table cannot be read is an InvalidDatasetError."""
    try:
        yield
    except InvalidTableError as error:
        raise InvalidDatasetError(path, f"cannot be read as a table: {error.message}") from None
    except UnicodeError as error:
        raise InvalidDatasetError(path, f"cannot be read as a table: {describe_encoding(error)}") from None
    except OSError as error:
        raise InvalidDatasetError(path, f"cannot be read as a table ({one_line(error)})") from None


def read_table_columns(path: Path) -> list[str]:
    """The names of a table's columns. Raises as `read_rows` does."""
    with table_errors(path):
        reader = find_reader(path)
        if reader is read_parquet_rows:
            return read_parquet_schema(path).names
        if reader is read_csv_rows:
            with open_text(path, newline="") as file:
                return next(filter(None, read_bounded_rows(file)), [])
        names: dict[str, None] = {}
        for row in read_jsonl_rows(path, ()):  # a line need not have all keys
            names |= dict.fromkeys(row)
            if len(names) > MAX_TABLE_COLUMNS:
                raise InvalidTableError(f"over the limit of {MAX_TABLE_COLUMNS} columns")
        return list(names)


def read_rows(path: Path, wanted: Collection[str]) -> Iterator[TableRow]:
    """The cells of the `wanted` columns in each row; of other columns there may be nothing.

    Raises InvalidDatasetError if the table cannot be read, or costs too much to read.
    """
    with table_errors(path):
        yield from find_reader(path)(path, wanted)


def find_reader(path: Path) -> ReadRows:
    reader = TABLE_READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidDatasetError(path, f"no table of a known kind ({', '.join(TABLE_READERS)})")
    return reader


def read_csv_rows(path: Path, wanted: Collection[str]) -> Iterator[TableRow]:
    with open_text(path, newline="") as file:
        rows = filter(None, read_bounded_rows(file))
        header = next(rows, [])
        as_meant = strip_quote if is_ours(header) else str
        for row in rows:
            cells: TableRow = dict(zip(header, map(as_meant, row), strict=False))
            yield cells | {MORE: any(map(str.strip, row[len(header) :]))}


def read_jsonl_rows(path: Path, wanted: Collection[str]) -> Iterator[TableRow]:
    with open_text(path) as file:
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


TABLE_READERS: dict[str, ReadRows] = {".csv": read_csv_rows, ".parquet": read_parquet_rows, ".jsonl": read_jsonl_rows}
