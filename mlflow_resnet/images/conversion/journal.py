"""What an unfinished conversion has done, a line per image, so that the next one goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType

from mlflow_resnet.errors import InvalidTableError, OutputError
from mlflow_resnet.images.index import IndexRow, checked_row
from mlflow_resnet.images.untrusted import parse_json

JOURNAL_NAME = ".journal.jsonl"
MAX_LINE_CHARACTERS = 2**20


class Journal:
    """Rows by source and label. A row is written after its image is, so what is in the journal is there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self.rows = {(row.source, row.label): row for row in written(self.path)}

    def __enter__(self) -> Journal:
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def name_of(self, source: str, label: str) -> str:
        """What the image is called already; empty if it is new."""
        row = self.rows.get((source, label))
        return row.name if row else ""

    def recall(self, rows: Iterable[IndexRow]) -> None:
        """Takes in what an earlier call completed."""
        for row in rows:
            self.rows.setdefault((row.source, row.label), row)

    def add(self, row: IndexRow) -> None:
        self.rows[row.source, row.label] = row
        self._file.write(json.dumps(asdict(row)) + "\n")
        self._file.flush()


def written(path: Path) -> Iterator[IndexRow]:
    """The rows in a journal, up to a line that a killed process did not finish, or that is not one of ours.

    Raises:
        OutputError: if it is no plain file.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        raise OutputError(path, "is damaged (no plain file). Remove it")
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in iter(partial(file.readline, MAX_LINE_CHARACTERS), ""):
            try:
                yield checked_row(parse_json(line))
            except (ValueError, InvalidTableError):
                return
