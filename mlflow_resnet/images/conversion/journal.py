"""Journal of an unfinished conversion, one line per image, from which it is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow_resnet.errors import InvalidTableError, OutputError
from mlflow_resnet.images.index import IndexRow, parse_row
from mlflow_resnet.io.untrusted import parse_json

JOURNAL_NAME = ".journal.jsonl"
MAX_JOURNAL_LINE_CHARACTERS = 2**20
LEFT = "left"


class Journal:
    """Rows by source and label. A row is written after its image is, so what is in the journal is there.

    Attributes:
        left: names of images that do not belong any more, and are removed after it says so.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self.rows: dict[tuple[str, str], IndexRow] = {}
        self.left: set[str] = set()
        for row, has_left in read_journal(self.path):
            if has_left:
                self.rows.pop(row.key, None)
                self.left.add(row.name)
            else:
                self.rows[row.key] = row

    def __enter__(self) -> Journal:
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        self._file.write("\n")  # behind a line that was not finished
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def recall(self, rows: Iterable[IndexRow]) -> None:
        """Adds the rows of an earlier, completed call."""
        for row in rows:
            if row.name not in self.left:
                self.rows.setdefault(row.key, row)

    def add(self, row: IndexRow) -> None:
        self.rows[row.key] = row
        self._write(asdict(row))

    def leave(self, row: IndexRow) -> None:
        """Forgets an image that does not belong any more, which `left` remembers until it is removed."""
        self.rows.pop(row.key, None)
        self.left.add(row.name)
        self._write({LEFT: asdict(row)})

    def _write(self, facts: dict[str, Any]) -> None:
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()


def read_journal(path: Path) -> Iterator[tuple[IndexRow, bool]]:
    """The rows in a journal and whether they have left. Lines that are not ours, or were not finished, are passed over.

    Raises OutputError if it is no plain file.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        raise OutputError(path, "is damaged (no plain file). Remove it")
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in iter(partial(file.readline, MAX_JOURNAL_LINE_CHARACTERS), ""):
            try:
                facts = parse_json(line)
                has_left = isinstance(facts, dict) and facts.keys() == {LEFT}
                yield parse_row(facts[LEFT] if has_left else facts), has_left
            except (ValueError, InvalidTableError):
                continue
