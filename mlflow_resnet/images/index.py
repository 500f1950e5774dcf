"""The table that `convert` writes beside the images, or instead of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidDatasetError, InvalidTableError
from mlflow_resnet.images.parquet_rows import TABLE_LIMITS as PARQUET_LIMITS
from mlflow_resnet.images.parquet_rows import read_parquet_rows
from mlflow_resnet.io.file_names import name_problem, quote_name, text_problem
from mlflow_resnet.io.own_folders import INDEX_NAME
from mlflow_resnet.io.parquet import check_parquet
from mlflow_resnet.io.reasons import os_reason

SOURCE, TRANSFER = "mlflow_resnet.source", "mlflow_resnet.transfer"  # facts about the conversion
REFERENCE = "reference"
ROOTS = "MLFLOW_RESNET_REFERENCE_ROOTS"  # folders that references may lead to, joined with os.pathsep; unset: anywhere


@dataclass(frozen=True)
class IndexRow:
    """One image: its name below the directory, and facts about its file.

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

    @property
    def key(self) -> tuple[str, str]:
        """What tells an image of a source from the others: source and label."""
        return self.source, self.label


TEXT, INT32, INT64 = pa.string(), pa.int32(), pa.int64()
SCHEMA = pa.schema(
    {"name": TEXT, "label": TEXT, "source": TEXT, "bytes": INT64, "width": INT32, "height": INT32, "sha256": TEXT}
)
INDEX_LIMITS = replace(PARQUET_LIMITS, rows=10_000_000, decoded_bytes=8 * 2**30)
_KINDS = {name: str if pa.types.is_string(kind) else int for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)}


def write_index(folder: Path, rows: Iterable[IndexRow], facts: Mapping[str, str]) -> None:
    """Writes `rows` in the order of their names; `facts` become metadata of the file."""
    table = pa.Table.from_pylist([asdict(row) for row in sorted(rows, key=lambda row: row.name)], SCHEMA)
    path = folder / INDEX_NAME
    path.unlink(missing_ok=True)  # it may be a link
    pq.write_table(table.replace_schema_metadata(dict(facts)), path)


def read_index(folder: str | os.PathLike[str]) -> tuple[list[IndexRow], dict[str, str]]:
    """The rows and the facts of the index in `folder`; nothing if there is none.

    The file is untrusted. Its names are looked at here, and nowhere else: all lie below the directory, in folders named
    after their labels, each once. Raises InvalidDatasetError if it cannot be read, costs too much to read, or has a row
    that is refused.
    """
    path = Path(folder, INDEX_NAME)
    if not path.is_file():
        return [], {}
    try:
        found = check_parquet(path, INDEX_LIMITS, ()).metadata or {}
        texts = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()}
        facts = {key: text for key, text in texts.items() if key != "ARROW:schema"}
        rows = [parse_row(row) for row in read_parquet_rows(path, SCHEMA.names, INDEX_LIMITS)]
        _check_each(rows, facts.get(TRANSFER) == REFERENCE)
    except OSError as error:
        raise InvalidDatasetError(path, f"cannot be read ({os_reason(error)})") from None
    except InvalidTableError as error:
        raise InvalidDatasetError(path, f"is no index of ours: {error.message}. Remove it.") from None
    return rows, facts


def read_references(folder: str | os.PathLike[str]) -> list[IndexRow]:
    """The rows of an index whose images are elsewhere, at their `source`; nothing if they are in `folder` itself.

    Raises as `read_index` does.
    """
    rows, facts = read_index(folder)
    return rows if facts.get(TRANSFER) == REFERENCE else []


def parse_row(facts: Any) -> IndexRow:
    """Parses one row of an index file. Raises InvalidTableError unless it is one as `convert` writes them."""
    if not isinstance(facts, dict) or {name: type(value) for name, value in facts.items()} != _KINDS:
        raise InvalidTableError("a row lacks a value, or has one of another kind")
    row = IndexRow(**facts)
    if problem := name_problem(row.name):
        raise InvalidTableError(f"the name {quote_name(row.name)} {problem}")
    if row.label != (row.name.partition("/")[0] if "/" in row.name else ""):
        problem = f"{quote_name(row.name)} is not in a folder named after its label {quote_name(row.label)}"
        raise InvalidTableError(problem)
    return row


def _check_each(rows: Sequence[IndexRow], references: bool) -> None:
    """Checks across rows that names are unique and references lead to allowed places."""
    seen: set[str] = set()
    roots = [os.path.realpath(root) for root in os.environ.get(ROOTS, "").split(os.pathsep) if root]
    for row in rows:
        if row.name in seen:
            raise InvalidTableError(f"the name {quote_name(row.name)} comes twice")
        seen.add(row.name)
        if references and (problem := _reference_problem(row.source, roots)):
            raise InvalidTableError(f"the source {quote_name(row.source)} {problem}")


def _reference_problem(source: str, roots: Sequence[str]) -> str:
    if problem := text_problem(source):
        return problem
    if not os.path.isabs(source) or ".." in Path(source).parts:
        return "is no absolute path"
    if roots and not any(Path(os.path.realpath(source)).is_relative_to(root) for root in roots):
        return f"is in none of the folders of {ROOTS}"
    return ""
