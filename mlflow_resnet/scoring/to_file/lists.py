"""Lists of images: a text file with a path or `s3://` URI per line, or a table with a column of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, InvalidTableError, encodable, join_names
from mlflow_resnet.images.cells import (
    choose_place,
    decode_base64_cell,
    find_column,
    format_cell,
    get_record_content,
    spell_path,
    unwrap_cell,
)
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES
from mlflow_resnet.images.parquet_rows import (
    check_image_column,
    find_image_columns,
    read_image_rows,
    read_parquet_rows,
    read_parquet_schema,
)
from mlflow_resnet.images.rules import is_image
from mlflow_resnet.images.sources import (
    TOO_LARGE,
    ImageSource,
    file_source,
    local_file,
    make_failing_source,
    object_source,
)
from mlflow_resnet.io.parallel import map_ordered
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.s3.access import connect_s3
from mlflow_resnet.io.s3.transfer import THREADS
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.io.text.rows import describe_encoding, open_text, read_bounded_lines, read_bounded_rows
from mlflow_resnet.io.text.spreadsheets import is_ours, strip_quote
from mlflow_resnet.scoring.inputs import NO_URLS, URL

LIST_COLUMNS = ("image", "path")
Cell = str | bytes


def is_list(uri: str) -> bool:
    """Returns whether `uri` has the suffix of a list of images."""
    return os.path.splitext(uri)[1].lower() in READERS and (is_remote(uri) or os.path.isfile(uri))


@dataclass(frozen=True)
class ImageList:
    """The images that the file `uri` names, in its order. What is relative in it begins from its folder or prefix.

    Each line of a text file and each row of a table is one image, also where it names none.
    """

    uri: str

    @cached_property
    def path(self) -> Path:
        """Local path of the file, which is copied to the cache if it is in S3. Raises InvalidDatasetError."""
        return local_file(self.uri)

    @cached_property
    def client(self) -> Any:
        """The S3 client for all images of the list."""
        return connect_s3(self.uri)

    def entries(self) -> Iterator[Cell]:
        """Yields the path or content of each image; empty if the cell is empty.

        Raises:
            InvalidDatasetError: if it cannot be read, or lacks the column.
        """
        try:
            yield from READERS[self.path.suffix.lower()](self.path)
        except InvalidDatasetError as error:
            raise InvalidDatasetError(self.uri, error.problem) from None
        except InvalidTableError as error:
            reason = f": {error.message}"
        except UnicodeError as error:
            reason = f": {describe_encoding(error)}"
        except OSError as error:
            reason = f" ({one_line(error)})"
        else:
            return
        raise InvalidDatasetError(self.uri, f"cannot be read as a list of images{reason}")

    def sources(self, wanted: Callable[[int], bool]) -> Iterator[ImageSource]:
        """The images at the places, from 1, that are `wanted`; those in S3 are fetched a few ahead, as they come."""
        chosen = ((place, text) for place, text in enumerate(self.entries(), 1) if wanted(place))
        yield from map_ordered(self.make_source, chosen, THREADS, weigh=lambda entry: len(entry[1]))

    def make_source(self, entry: tuple[int, Cell]) -> ImageSource:
        """Returns the source of the image at a place, named as in the list."""
        number, cell = entry
        row, place = f"row {number}", str(number)
        text, content = (cell, decode_base64_cell(cell)) if isinstance(cell, str) else ("", cell)
        if content is not None:  # the image is in the list itself
            if len(content) > MAX_IMAGE_BYTES:
                return make_failing_source(row, TOO_LARGE, place)
            return ImageSource(row, lambda: content, place)
        if not text.strip():
            return make_failing_source(row, "the list names no image here", place)
        uri = choose_place([self.beside(spelling) for spelling in spell_path(text)])
        if is_remote(uri):
            return object_source(self.client, uri, text, place)
        if URL.match(uri):
            return make_failing_source(without_credentials(encodable(text)), NO_URLS, place)
        return file_source(uri, text, place)

    def beside(self, text: str) -> str:
        """Resolves `text` against the list's folder or prefix."""
        if URL.match(text):
            return text
        if is_remote(self.uri) and not os.path.isabs(text):
            return f"{self.uri.rpartition('/')[0]}/{text}"
        return os.path.join(os.path.dirname(self.uri), text)


def lines(path: Path) -> Iterator[str]:
    with open_text(path, errors="surrogateescape") as file:  # a path need not be UTF-8
        for line in read_bounded_lines(file):
            yield line.removesuffix("\n")


def csv_cells(path: Path) -> Iterator[str]:
    with open_text(path, errors="surrogateescape", newline="") as file:
        rows = read_bounded_rows(file)
        header = next(rows, [])
        position = header.index(find_list_column(path, header))
        as_meant = strip_quote if is_ours(header) else str
        for row in filter(None, rows):
            yield as_meant(row[position]) if position < len(row) else ""


def parquet_cells(path: Path) -> Iterator[Cell]:
    """Paths, or images themselves: in a column of bytes, or of records of bytes and a path as Hugging Face has them."""
    schema = read_parquet_schema(path)
    name = find_list_column(path, schema.names, find_image_columns(schema))
    has_images = check_image_column(path, schema, name)
    for row in read_image_rows(path, [name]) if has_images else read_parquet_rows(path, [name]):
        cell = unwrap_cell(row[name])
        if has_images and isinstance(cell, dict):
            cell = get_record_content(cell)
        if isinstance(cell, list):
            yield ""
        else:
            yield cell if isinstance(cell, bytes if has_images else str) else format_cell(cell)


def find_list_column(path: Path, names: Sequence[str], others: Sequence[str] = ()) -> str:
    """The column of images: one of the usual names or of the `others`, or the only one."""
    found = find_column(names, (*LIST_COLUMNS, *others)) or (names[0] if len(names) == 1 else "")
    if not found:
        there = join_names(map(repr, names)) or "none"
        raise InvalidDatasetError(path, f"no column {' or '.join(LIST_COLUMNS)} among {there}. Name it so.")
    if is_image(found):
        raise InvalidDatasetError(path, f"its first line is an image. Add one before it: {LIST_COLUMNS[0]}.")
    return found


READERS = {".txt": lines, ".csv": csv_cells, ".parquet": parquet_cells}
