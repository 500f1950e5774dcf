"""Scored rows on disk, from which an interrupted call is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlflow_resnet.errors import OutputError, join_names
from mlflow_resnet.io.atomic import new_file, output_errors, sync_to_disk
from mlflow_resnet.io.console import say
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import build_record, parse_fields

ROWS_PER_PART = 4096
FACTS_KEY = b"mlflow_resnet"


@dataclass(frozen=True)
class PartsProgress:
    """State of scoring: parts, rows, unreadable and unsure ones, and the place of the last image."""

    parts: int = 0
    rows: int = 0
    unreadable: int = 0
    unsure: int = 0
    last: str = ""


class Parts:
    """Numbered Arrow files in a folder that no other process uses.

    Each gets its name when it is on the disk, and says what it is of and how far it leads, so the first ones that are
    whole and of the same `call` are always a beginning of the result.
    """

    def __init__(self, folder: Path, call: Mapping[str, Any]) -> None:
        self.folder, self.call = folder, dict(call)
        self.name = folder.resolve()  # as people call it
        self.progress = PartsProgress()
        with output_errors(folder):
            self.find()

    def find(self) -> None:
        """Takes over the parts of an earlier call, and removes unusable ones."""
        usable = set()
        while (path := self.choose_path(self.progress.parts + 1)).exists():
            try:
                facts = facts_in(path, self.progress.parts + 1)
            except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
                say(f"{self.name / path.name} is damaged ({one_line(error)}), so its images are scored again")
                break
            if changed := [name for name, value in self.call.items() if facts.call.get(name) != value]:
                say(f"{self.name} holds rows of a call with another {join_names(changed)}; scoring begins anew")
                break
            usable.add(path)
            self.progress = facts.progress
        for path in set(self.folder.iterdir()) - usable:
            path.unlink()
        if usable:
            say(f"going on after {self.progress.rows} rows in {self.name}; to begin anew, remove it")

    def add(self, table: pa.Table, unreadable: int, unsure: int, last: str) -> None:
        """Keeps the next rows; they are on the disk when this returns.

        Raises:
            OutputError: if they cannot be written.
        """
        done = self.progress
        progress = PartsProgress(
            done.parts + 1, done.rows + len(table), done.unreadable + unreadable, done.unsure + unsure, last
        )
        facts = json.dumps({"call": self.call, "progress": asdict(progress)})
        table = table.replace_schema_metadata({FACTS_KEY: facts})
        with new_file(self.choose_path(progress.parts)) as partial:
            with pa.ipc.new_file(str(partial), table.schema) as writer:
                writer.write_table(table)
            sync_to_disk(partial)
        sync_to_disk(self.folder)
        self.progress = progress

    def tables(self) -> Iterator[pa.Table]:
        """All rows, at least `ROWS_PER_PART` at a time as long as there are so many.

        Raises:
            OutputError: if a part was damaged meanwhile.
        """
        waiting: list[pa.Table] = []
        for number in range(1, self.progress.parts + 1):
            try:
                with pa.OSFile(str(self.choose_path(number))) as file, pa.ipc.open_file(file) as reader:
                    waiting.append(reader.read_all().replace_schema_metadata())
                whole = pa.concat_tables(waiting)
            except (OSError, pa.ArrowException) as error:
                problem = f"is damaged ({one_line(error)}). Remove it, and give the command again"
                raise OutputError(self.choose_path(number), problem) from None
            if len(whole) >= ROWS_PER_PART or number == self.progress.parts:
                yield whole
                waiting = []

    def choose_path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.arrow"


@dataclass(frozen=True)
class Facts:
    """Metadata of a part: its call, and the state of scoring after it."""

    call: dict[str, Any]
    progress: PartsProgress


def facts_in(path: Path, number: int) -> Facts:
    """Reads the metadata of the part of this number. Raises an error unless the file is whole."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        facts = parse_fields(reader.schema.metadata[FACTS_KEY])
        reader.read_all().validate(full=True)
    found = build_record(Facts, facts | {"progress": build_record(PartsProgress, facts["progress"])})
    if found.progress.parts != number:
        raise ValueError(f"it is part {found.progress.parts}")
    return found
