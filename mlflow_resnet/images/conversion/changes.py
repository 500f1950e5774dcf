"""Differences between an earlier conversion and its source now: labels, moves and removals.

Each picture is in one class. The copy of an image whose label was corrected moves, so that it is not lost if the image
itself cannot be read any more. An image that a table does not name any more leaves. One whose file is gone stays: there
may be no other copy. A journal, with a line per image, tells the next call what an interrupted one has done.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidOptionsError, InvalidTableError, OutputError, join_names
from mlflow_resnet.images.conversion.entries import Entry, name_below
from mlflow_resnet.images.decoding.decode import usual_suffix
from mlflow_resnet.images.index import REFERENCE, IndexRow, parse_row, read_index
from mlflow_resnet.images.rules import is_image
from mlflow_resnet.io.file_names import path_below
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.io.untrusted import parse_json

SHOWN_CHANGES = 5  # names in a sentence
JOURNAL_NAME = ".journal.jsonl"
MAX_JOURNAL_LINE_CHARACTERS = 2**20
LEFT = "left"


class Journal:
    """Rows by source and label. A row is written after its image is, so what is in the journal is there.

    `left` are names of images that do not belong any more, and are removed after it says so.
    Raises OutputError if there is something else than a plain file in its place.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self.rows: dict[tuple[str, str], IndexRow] = {}
        self.left: set[str] = set()
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_file():
            raise OutputError(self.path, "is damaged (no plain file). Remove it")
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for line in iter(partial(file.readline, MAX_JOURNAL_LINE_CHARACTERS), ""):
                try:
                    facts = parse_json(line)
                    has_left = isinstance(facts, dict) and facts.keys() == {LEFT}
                    row = parse_row(facts[LEFT] if has_left else facts)
                except (ValueError, InvalidTableError):  # not ours, or not finished
                    continue
                if has_left:
                    self.rows.pop(row.key, None)
                    self.left.add(row.name)
                else:
                    self.rows[row.key] = row

    def __enter__(self) -> Journal:
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        self._file.write("\n")  # behind a line that was not finished
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

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


class Survey:
    """The images that a source has now, as far as they can be used. It reads none.

    Attributes:
        labels: of each source that has one label.
        conflicts: the labels of each source that has several.
        repeated: how often an image comes again with the same label.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.labels: dict[str, str] = {}
        self.conflicts: dict[str, set[str]] = {}
        self.repeated = 0
        for entry in entries:
            if entry.problem:
                continue
            if entry.source not in self.labels:
                self.labels[entry.source] = entry.label
            elif self.labels[entry.source] == entry.label:
                self.repeated += 1
            else:
                self.conflicts.setdefault(entry.source, {self.labels[entry.source]}).add(entry.label)
        for source in self.conflicts:
            del self.labels[source]

    def has(self, row: IndexRow) -> bool:
        return self.labels.get(row.source) == row.label

    def check(self, entry: Entry) -> Entry:
        """The entry, which cannot be used if the source has it under several labels."""
        labels = self.conflicts.get(entry.source)
        if not labels or entry.problem:
            return entry
        return replace(entry, problem=f"{len(labels)} labels ({join_names(sorted(labels), SHOWN_CHANGES)})")


class Update:
    """Gives `folder`, which becomes `output_dir`, the images that a source has now.

    Attributes:
        journal: what is in the folder.
        before: what was there before.
        taken: names, in lower case, that no other image may have.
    """

    def __init__(self, folder: Path, journal: Journal, output_dir: str | os.PathLike[str], transfer: str) -> None:
        self.folder, self.journal, self.transfer = folder, journal, transfer
        earlier = read_index(folder)[0]
        for row in earlier:
            if row.name not in journal.left:
                journal.rows.setdefault(row.key, row)
        self.before = {row.key: row for row in earlier} | journal.rows
        self.taken = set[str]()
        for inside, _, files in os.walk(output_dir):
            below = os.path.relpath(inside, output_dir).replace(os.sep, "/")
            self.taken |= {(file if below == "." else f"{below}/{file}").casefold() for file in files}
        self.taken -= {row.name.casefold() for row in earlier}

    def move_images(self, now: Survey, is_listing: bool) -> None:
        """Moves images whose label changed and removes those that left the source.

        Those that a listing lacks do not belong any more. For other sources `remove_gone` decides in the end.
        """
        changed = [row for row in self.journal.rows.values() if not now.has(row)]
        goes = is_listing or self.transfer == REFERENCE
        for row in changed:
            if row.source not in now.labels and (goes or row.source in now.conflicts):
                self.journal.leave(row)
        self.taken.update(row.name.casefold() for row in self.journal.rows.values())
        for row in changed:
            if row.source in now.labels:
                self.relabel_image(row, now.labels[row.source])
        self.remove_left()
        for entry in list(self.folder.iterdir()):
            with suppress(OSError):  # it is no folder, or not empty
                entry.rmdir()  # of a class that may have been a mistake

    def relabel_image(self, row: IndexRow, label: str) -> None:
        """Gives an image its new label, without reading it anew.

        One that is not in its place any more is left to the source, unless somebody moved it to its new class by hand.
        """
        name = name_below(label, row.name.partition("/")[2] if row.label else row.name)
        new = path_below(self.folder, name)
        old = None if self.transfer == REFERENCE else path_below(self.folder, row.name)
        if old and not old.is_file():
            if not new.is_file() or new.stat().st_size != row.bytes:
                self.journal.leave(row)
                return
        else:
            if not new.exists():  # where case does not count, it may be the image itself
                self.taken.discard(row.name.casefold())
            name = make_unique(name, self.taken)
            if old:
                put_image(path_below(self.folder, name), old)  # `old` is removed once the journal has the second name
        self.journal.add(replace(row, name=name, label=label))
        self.journal.leave(row)
        self.taken.add(name.casefold())

    def add_image(self, entry: Entry, content: bytes, row: IndexRow) -> None:
        """Writes an image, and then into the journal that it is there."""
        known = self.journal.rows.get(row.key)
        name = entry.name if is_image(entry.name) else entry.name + usual_suffix(content)
        name = known.name if known else make_unique(name, self.taken)
        path = path_below(self.folder, name)
        if self.transfer != "copy" and not entry.path:
            problem = f"transfer is {self.transfer!r}, but {entry.source} is no file on this machine; give copy"
            raise InvalidOptionsError([problem])
        if self.transfer == "copy":
            put_image(path, content)
        elif self.transfer == "hardlink":
            put_image(path, Path(os.path.realpath(entry.path)), "; give transfer copy")
        self.journal.add(replace(row, name=name))

    def remove_gone(self, now: Survey) -> list[IndexRow]:
        """Removes images that the source no longer has, if it has the same picture elsewhere. Returns those that
        stay."""
        rows = list(self.journal.rows.values())
        there, kept = {row.sha256 for row in rows if now.has(row)}, []
        for row in rows:
            if now.has(row):
                continue
            if row.sha256 in there or not path_below(self.folder, row.name).is_file():
                self.journal.leave(row)
            else:
                kept.append(row)
        self.remove_left()
        return kept

    def remove_left(self) -> None:
        """Removes the files of images that left, and the folders that are empty then."""
        for name in self.journal.left - {row.name for row in self.journal.rows.values()}:
            path = path_below(self.folder, name)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(path, f"cannot be removed ({os_reason(error)})") from error
            with suppress(OSError):  # it is not empty
                for parent in list(path.parents)[: name.count("/")]:
                    parent.rmdir()

    def find_changes(self) -> tuple[list[tuple[IndexRow, IndexRow]], list[IndexRow], int]:
        """Images of an earlier call that moved (old and new row), those that left, and the number of new ones."""
        after = self.journal.rows
        by_source = {row.source: row for row in after.values()}
        by_content = {row.sha256: row for key, row in after.items() if key not in self.before}
        moved, left = [], []
        for row in (row for key, row in self.before.items() if key not in after):
            new = by_source.get(row.source) or by_content.get(row.sha256)
            if new:
                moved.append((row, new))
            else:
                left.append(row)
        return moved, left, len(after.keys() - self.before.keys() - {new.key for _, new in moved})


def describe_update(
    moved: list[tuple[IndexRow, IndexRow]],
    left: list[IndexRow],
    kept: list[IndexRow],
    repeated: int,
    classes: Iterable[str],
) -> Iterator[str]:
    """Yields sentences about what an update did, and about classes that may be one: there are also "a" and "A"."""
    renamed = [f"{old.name} is {new.name} now" for old, new in moved if old.name != new.name]
    for what, names, why in (
        ("moved", renamed, "of an earlier call"),
        ("removed", [row.name for row in left], "of an earlier call, which the source has no more"),
        ("kept", [row.name for row in kept], "that the source has no more, as there may be no other copy"),
    ):
        if names:
            yield f"{what} {say_count(len(names), 'image')} {why}: {join_names(names, SHOWN_CHANGES)}"
    if repeated:
        yield f"counted once: {say_count(repeated, 'row')} with the image and label of an earlier one"
    alike = defaultdict(list)
    for name in classes:
        alike[" ".join(unicodedata.normalize("NFC", name).casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            together = " and ".join(map(repr, names))
            yield f"classes {together} differ only in case or blanks; if they are one, write them alike"


def make_unique(name: str, taken: set[str]) -> str:
    """`name`, with a number before its suffix if it is taken, also in another case. `taken` learns it."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


def put_image(path: Path, image: bytes | Path, advice: str = "") -> None:
    """Writes the bytes of an image to `path`, or links its file there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an interrupted call that had not told its journal yet
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            os.link(image, path)
    except OSError as error:  # an archive may name a file like a folder, or too long
        raise OutputError(path, f"cannot be written ({os_reason(error)}){advice}") from error


def say_count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
