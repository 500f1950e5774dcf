"""Differences between an earlier conversion and its source now: labels, moves and removals.

Each picture is in one class. The copy of an image whose label was corrected moves, so that it is not lost if the image
itself cannot be read any more. An image that a table does not name any more leaves. One whose file is gone stays: there
may be no other copy.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow_resnet.errors import OutputError, join_names
from mlflow_resnet.images.conversion.entries import Entry, name_below
from mlflow_resnet.images.conversion.journal import Journal, RowKey, get_row_key
from mlflow_resnet.images.index import REFERENCE, IndexRow
from mlflow_resnet.io.file_names import path_below
from mlflow_resnet.io.reasons import os_reason

SHOWN_CHANGES = 5  # names in a sentence


@dataclass
class Survey:
    """The images that a source has now.

    Attributes:
        labels: of each source that has one label.
        conflicts: the labels of each source that has several.
        repeated: how often an image comes again with the same label.
    """

    labels: dict[str, str] = field(default_factory=dict)
    conflicts: dict[str, set[str]] = field(default_factory=dict)
    repeated: int = 0

    def has(self, key: RowKey) -> bool:
        return self.labels.get(key[0]) == key[1]

    def check(self, entry: Entry) -> Entry:
        """The entry, which cannot be used if the source has it under several labels."""
        labels = self.conflicts.get(entry.source)
        if not labels or entry.problem:
            return entry
        return replace(entry, problem=f"{len(labels)} labels ({join_names(sorted(labels), SHOWN_CHANGES)})")


def survey_entries(entries: Iterable[Entry]) -> Survey:
    """Takes note of all entries that can be used; reads none."""
    found = Survey()
    for entry in entries:
        if entry.problem:
            continue
        if entry.source not in found.labels:
            found.labels[entry.source] = entry.label
        elif found.labels[entry.source] == entry.label:
            found.repeated += 1
        else:
            found.conflicts.setdefault(entry.source, {found.labels[entry.source]}).add(entry.label)
    for source in found.conflicts:
        del found.labels[source]
    return found


def update_folder(
    folder: Path, journal: Journal, now: Survey, taken: set[str], transfer: str, is_listing: bool
) -> None:
    """Moves images whose label changed and removes those that left the source.

    Args:
        taken: names that no image of ours may have; learns those that stay.
        is_listing: the source says what belongs, so what it lacks leaves. Otherwise `remove_gone` decides in the end.
    """
    changed = [row for key, row in journal.rows.items() if not now.has(key)]
    for row in changed:
        if row.source not in now.labels and (is_listing or transfer == REFERENCE or row.source in now.conflicts):
            journal.leave(row)
    taken.update(row.name.casefold() for row in journal.rows.values())
    for row in changed:
        if row.source in now.labels:
            relabel_image(folder, journal, row, now.labels[row.source], taken, transfer)
    remove_left(folder, journal)
    for entry in list(folder.iterdir()):
        with suppress(OSError):  # it is no folder, or not empty
            entry.rmdir()  # of a class that may have been a mistake


def relabel_image(folder: Path, journal: Journal, row: IndexRow, label: str, taken: set[str], transfer: str) -> None:
    """Gives an image its new label, without reading it anew.

    One that is not in its place any more is left to the source, unless somebody moved it to its new class by hand.
    """
    wanted = name_below(label, row.name.partition("/")[2] if row.label else row.name)
    name = wanted
    if transfer != REFERENCE and not path_below(folder, row.name).is_file():
        path = path_below(folder, wanted)
        if not path.is_file() or path.stat().st_size != row.bytes:
            journal.leave(row)
            return
    else:
        if not path_below(folder, wanted).exists():  # where case does not count, it may be the image itself
            taken.discard(row.name.casefold())
        name = make_unique(wanted, taken)
        if transfer != REFERENCE:
            link_image(path_below(folder, row.name), path_below(folder, name))
    journal.add(replace(row, name=name, label=label))
    journal.leave(row)
    taken.add(name.casefold())


def link_image(old: Path, new: Path) -> None:
    """Gives an image a second name; the first is removed once the journal has the second."""
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)  # of an interrupted call that had not told its journal yet
        os.link(old, new)
    except OSError as error:
        raise OutputError(new, f"cannot be written ({os_reason(error)})") from error


def remove_gone(folder: Path, journal: Journal, now: Survey) -> list[IndexRow]:
    """Removes images that the source no longer has, if it has the same picture elsewhere. Returns those that stay."""
    gone = [row for key, row in journal.rows.items() if not now.has(key)]
    there = {row.sha256 for key, row in journal.rows.items() if now.has(key)}
    kept = []
    for row in gone:
        if row.sha256 in there or not path_below(folder, row.name).is_file():
            journal.leave(row)
        else:
            kept.append(row)
    remove_left(folder, journal)
    return kept


def remove_left(folder: Path, journal: Journal) -> None:
    """Removes the files of images that left, and the folders that are empty then."""
    names = {row.name for row in journal.rows.values()}
    for name in journal.left - names:
        path = path_below(folder, name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(path, f"cannot be removed ({os_reason(error)})") from error
        with suppress(OSError):  # it is not empty
            for parent in list(path.parents)[: name.count("/")]:
                parent.rmdir()


def find_names_of_others(output_dir: str | os.PathLike[str], rows: Iterable[IndexRow]) -> set[str]:
    """Returns the lower-case names of files in the directory that the conversion did not write."""
    own = {row.name.casefold() for row in rows}
    found = set()
    for folder, _, files in os.walk(output_dir):
        below = os.path.relpath(folder, output_dir).replace(os.sep, "/")
        found |= {(file if below == "." else f"{below}/{file}").casefold() for file in files}
    return found - own


def make_unique(name: str, taken: set[str]) -> str:
    """`name`, with a number before its suffix if it is taken, also in another case. `taken` learns it."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


@dataclass(frozen=True)
class Changes:
    """Images of an earlier call that moved (old and new row) or left.

    `added` is the number of the others that are new.
    """

    moved: list[tuple[IndexRow, IndexRow]]
    left: list[IndexRow]
    added: int

    def notes(self) -> Iterator[str]:
        names = [f"{old.name} is {new.name} now" for old, new in self.moved if old.name != new.name]
        if names:
            yield f"moved {say_images(names, 'of an earlier call')}"
        if self.left:
            names = [row.name for row in self.left]
            yield f"removed {say_images(names, 'of an earlier call, which the source has no more')}"


def find_changes(before: Mapping[RowKey, IndexRow], after: Mapping[RowKey, IndexRow]) -> Changes:
    by_source = {row.source: row for row in after.values()}
    by_content = {row.sha256: row for key, row in after.items() if key not in before}
    moved, left = [], []
    for key, row in before.items():
        if key in after:
            continue
        new = by_source.get(row.source) or by_content.get(row.sha256)
        if new:
            moved.append((row, new))
        else:
            left.append(row)
    added = after.keys() - before.keys() - {get_row_key(row) for _, row in moved}
    return Changes(moved, left, len(added))


def describe_result(changes: Changes, kept: list[IndexRow], now: Survey, classes: Iterable[str]) -> list[str]:
    """Returns sentences about the result of a conversion."""
    return [*changes.notes(), *describe_kept(kept), *describe_repeated(now.repeated), *describe_alike(classes)]


def describe_kept(kept: list[IndexRow]) -> Iterator[str]:
    if kept:
        what = "that the source has no more, as there may be no other copy"
        yield f"kept {say_images([row.name for row in kept], what)}"


def describe_repeated(repeated: int) -> Iterator[str]:
    if repeated:
        yield f"counted once: {say_count(repeated, 'row')} with the image and label of an earlier one"


def describe_alike(classes: Iterable[str]) -> Iterator[str]:
    """Classes that may be one: they stay apart, because there are also classes "a" and "A"."""
    alike = defaultdict(list)
    for name in classes:
        alike[" ".join(unicodedata.normalize("NFC", name).casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            together = " and ".join(map(repr, names))
            yield f"classes {together} differ only in case or blanks; if they are one, write them alike"


def say_images(names: list[str], what: str) -> str:
    return f"{say_count(len(names), 'image')} {what}: {join_names(names, SHOWN_CHANGES)}"


def say_count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
