"""Makes an image directory from a source: reads, checks and writes each image, and resumes after interruption."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from mlflow_resnet.errors import (
    InvalidDatasetError,
    InvalidImageError,
    InvalidOptionsError,
    OutputError,
    encodable,
    join_names,
)
from mlflow_resnet.images.conversion.changes import (
    Changes,
    Survey,
    describe_result,
    find_changes,
    find_names_of_others,
    make_unique,
    remove_gone,
    survey_entries,
    update_folder,
)
from mlflow_resnet.images.conversion.entries import Entry, Source, is_listing, label_problem, open_source
from mlflow_resnet.images.conversion.journal import JOURNAL_NAME, Journal, RowKey, get_row_key
from mlflow_resnet.images.conversion.tables import Columns
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES, decode, usual_suffix
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.index import REFERENCE, SOURCE, TRANSFER, IndexRow, read_index, write_index
from mlflow_resnet.images.layout import Layout
from mlflow_resnet.images.rules import Ignored, is_image
from mlflow_resnet.io.atomic import check_outside, resumable_directory
from mlflow_resnet.io.file_names import path_below
from mlflow_resnet.io.own_folders import INDEX_NAME, LEFT_OUT_NAME
from mlflow_resnet.io.parallel import default_threads, map_ordered
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.io.text.characters import is_utf8
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.io.text.spreadsheets import QUOTED, write_csv

REASONS = 5  # in the message that no image can be read


@dataclass(frozen=True)
class Converted:
    """Result of `convert_source`.

    Attributes:
        images: in the directory; `added` are those that an earlier call had not put there.
        classes: also those in the parts of a data set, such as train and valid, if the source has these.
        unreadable: source -> why it was left out.
        notes: sentences about what was understood, moved and removed.
        advice: what is unusual about the folders, and how to train on them; empty if nothing is.
    """

    images: int
    added: int
    classes: tuple[str, ...]
    unreadable: dict[str, str]
    ignored: Ignored
    notes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Update:
    """Result of `update_images`.

    Attributes:
        left_out: why images of the source are not there, by where they are.
        kept: images that are there, though the source has them no more.
        survey: what the source has.
        changes: of the images that were there before.
    """

    left_out: dict[str, str]
    kept: list[IndexRow]
    survey: Survey
    changes: Changes


@dataclass(frozen=True)
class Examined:
    """An image that was read: its bytes, and all of its row but the name it will have."""

    entry: Entry
    content: bytes
    row: IndexRow | None
    problem: str = ""


def convert_source(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    image_root: str = "",
    image_column: str = "",
    label_column: str = "",
    transfer: str = "copy",
    threads: int = 0,
    csv_formulas: str = QUOTED,
    follow_links: bool = False,
    called: str = "",
    on_image: Callable[[], object] = lambda: None,
) -> Converted:
    """Copies the readable images of a source to `output_dir`, in class folders or flat, and lists them in an index.

    A call that was interrupted is gone on with by the next one. One for a directory that is complete adds what is new,
    moves what has another label now, and removes what a table does not name any more.

    Args:
        source: folder, `s3://` prefix, archive (.zip, .tar, .tar.gz, .tar.bz2), table (.csv, .parquet, .jsonl), or file
            of COCO annotations (.json).
        image_root: what relative paths in a table or in annotations begin from; empty: that file's folder.
        image_column, label_column: of a table; empty: the usual names.
        transfer: "copy" bytes; "hardlink" files, which takes no space on the same disk; "reference", which writes the
            index alone: the images stay where they are.
        threads: that read and check images; 0: one per core.
        csv_formulas: in the table of what was left out, see `text.spreadsheets`.
        follow_links: in a folder, also those that lead out of it.
        called: what sentences call `output_dir`; empty: as it is.
        on_image: called for each image, in this thread.

    Raises:
        InvalidDatasetError: if the source cannot be read or holds no readable image.
        OutputError: if `output_dir` cannot be written, or holds something else.
    """
    source, ignored = os.fspath(source), Counter[str]()
    if os.path.isdir(source):
        check_outside(source, output_dir)
    facts = {SOURCE: without_credentials(encodable(source)), TRANSFER: transfer}
    key = hashlib.sha256("\0".join(facts.values()).encode()).hexdigest()[:8]
    with (
        resumable_directory(output_dir, key, lambda path: read_index(path)[1] == facts) as folder,
        Journal(folder) as journal,
    ):
        opened = open_source(source, Columns(image_column, label_column), image_root, follow_links)
        entries, threads = partial(list_entries, opened, transfer), threads or default_threads()
        update = update_images(
            folder, journal, entries, ignored, output_dir, transfer, is_listing(source), threads, on_image
        )
        rows = journal.rows.values()
        if not rows:
            raise explain_no_images(source, Ignored(**ignored), update.left_out)
        layout = complete_folder(folder, rows, facts, update.left_out, csv_formulas)
        classes = classes_in(folder, layout)
    notes = (*opened.notes, *describe_result(update.changes, update.kept, update.survey, classes))
    advice = advice_on(layout, called or os.fspath(output_dir))
    added, parts = update.changes.added, tuple(layout.parts())
    return Converted(len(rows), added, classes, update.left_out, Ignored(**ignored), notes, parts, advice)


def update_images(
    folder: Path,
    journal: Journal,
    entries: Callable[[Counter[str]], Iterator[Entry]],
    ignored: Counter[str],
    output_dir: str | os.PathLike[str],
    transfer: str,
    is_listing: bool,
    threads: int,
    on_image: Callable[[], object],
) -> Update:
    """Gives `folder`, which becomes `output_dir`, the images that the source has now.

    Args:
        entries: lists the source anew each time.
        is_listing: the source says what belongs, so what it lacks leaves.
    """
    since = find_last_call_time(folder)
    earlier = read_index(folder)[0]
    journal.recall(earlier)
    before = {get_row_key(row): row for row in earlier} | journal.rows
    survey = survey_entries(entries(Counter())) if before or is_listing else Survey()
    taken = find_names_of_others(output_dir, earlier)
    update_folder(folder, journal, survey, taken, transfer, is_listing)
    new = find_new_entries(map(survey.check, entries(ignored)), journal, since)
    found = map_ordered(examine, new, threads, weigh=lambda entry: entry.size)
    left_out = take_in_all(folder, journal, found, taken, transfer, on_image)
    kept = remove_gone(folder, journal, survey) if before else []
    return Update(left_out, kept, survey, find_changes(before, journal.rows))


def list_entries(source: Source, transfer: str, ignored: Counter[str]) -> Iterator[Entry]:
    """Yields the entries of a source, each with a unique pair of `source` and label unless it is a repetition."""
    entries = tell_apart(source.entries(ignored))
    return map(mark_unreferable, entries) if transfer == REFERENCE else entries


def tell_apart(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries; of files whose names are escaped alike, each has another `source`."""
    paths: dict[RowKey, str] = {}
    for entry in entries:
        while "\\x" in entry.source and paths.setdefault((entry.source, entry.label), entry.path) != entry.path:
            entry = replace(entry, source=f"{entry.source}#")
        yield entry


def mark_unreferable(entry: Entry) -> Entry:
    """The entry, unusable if an index cannot hold its path."""
    is_lost = entry.path and not is_utf8(entry.path)
    return replace(entry, problem="its path is not UTF-8; rename it, or give transfer copy") if is_lost else entry


def take_in_all(
    folder: Path,
    journal: Journal,
    found: Iterable[Examined],
    taken: set[str],
    transfer: str,
    on_image: Callable[[], object],
) -> dict[str, str]:
    """Writes the images. Returns why others are left out, by where they are."""
    left_out = {}
    for examined in found:
        if examined.row is None:
            left_out[examined.entry.place or examined.entry.source] = examined.problem
            keep_class(folder, examined.entry)
        else:
            take_in(folder, journal, examined, examined.row, taken, transfer)
        on_image()
    return left_out


def find_new_entries(entries: Iterable[Entry], journal: Journal, since: float) -> Iterator[Entry]:
    """The entries that are not in the journal, or have changed `since`, each once.

    Those of an archive are read here, one after the other.
    """
    seen = set[RowKey]()
    for entry in entries:
        key = (entry.place if entry.problem else "") or entry.source, entry.label
        row = journal.rows.get(key)
        if key not in seen and (row is None or has_changed(entry, row, since)):
            yield fetch_entry(entry)
        seen.add(key)


def has_changed(entry: Entry, row: IndexRow, since: float) -> bool:
    """Returns whether the entry's local file has another size or was changed after `since`.

    A hard link changes the time at which its file was moved, so that of a file with several does not count.
    """
    if not entry.path:
        return False
    try:
        status = os.stat(entry.path)
    except OSError:
        return False
    last = status.st_mtime if status.st_nlink > 1 else max(status.st_mtime, status.st_ctime)
    return status.st_size != row.bytes or last > since


def find_last_call_time(folder: Path) -> float:
    """Returns when an earlier call last wrote its index or journal; 0 if there is none."""
    for name in (INDEX_NAME, JOURNAL_NAME):
        with suppress(OSError):
            return os.stat(folder / name).st_mtime
    return 0


def fetch_entry(entry: Entry) -> Entry:
    """The entry with its bytes, if they can only be read now, and with their number."""
    if not entry.in_archive or entry.problem:
        return replace(entry, size=find_entry_size(entry, entry.size))
    content = entry.read()
    return replace(entry, read=make_reader(content), size=len(content))


def find_entry_size(entry: Entry, otherwise: int) -> int:
    """Bytes of the entry's file, if it is one on this machine."""
    try:
        return os.stat(entry.path).st_size if entry.path else otherwise
    except OSError:
        return otherwise


def make_reader(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def examine(entry: Entry) -> Examined:
    """Reads and decodes an image in full."""
    if entry.problem:
        return Examined(entry, b"", None, entry.problem)
    try:
        content = entry.read()
        if len(content) > MAX_IMAGE_BYTES:
            raise InvalidImageError(f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image")
        width, height = decode(content).size
    except InvalidImageError as error:
        return Examined(entry, b"", None, error.message)
    digest = hashlib.sha256(content).hexdigest()
    return Examined(entry, content, IndexRow("", entry.label, entry.source, len(content), width, height, digest))


def add_suffix(examined: Examined) -> str:
    """The entry's name, with a suffix if it has none that images have."""
    name = examined.entry.name
    return name if is_image(name) else name + usual_suffix(examined.content)


def take_in(folder: Path, journal: Journal, examined: Examined, row: IndexRow, taken: set[str], transfer: str) -> None:
    """Writes an image, and then into the journal that it is there."""
    name = journal.find_name(*get_row_key(row)) or make_unique(add_suffix(examined), taken)
    write_image(path_below(folder, name), examined, transfer)
    journal.add(replace(row, name=name))


def write_image(path: Path, examined: Examined, transfer: str) -> None:
    """Puts an image at `path`."""
    if transfer != "copy" and not examined.entry.path:
        raise no_file(examined.entry, transfer)
    if transfer == "reference":
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an interrupted call that had not told its journal yet
        if transfer == "hardlink":
            os.link(os.path.realpath(examined.entry.path), path)
        else:
            path.write_bytes(examined.content)
    except OSError as error:  # an archive may name a file like a folder, or too long
        advice = "; give transfer copy" if transfer == "hardlink" else ""
        raise OutputError(path, f"cannot be written ({os_reason(error)}){advice}") from error


def keep_class(folder: Path, entry: Entry) -> None:
    """A class all of whose images are unreadable is still a class, which training then asks about."""
    if entry.label and not label_problem(entry.label):
        with suppress(OSError):
            (folder / entry.label).mkdir(exist_ok=True)


def no_file(entry: Entry, transfer: str) -> InvalidOptionsError:
    return InvalidOptionsError([f"transfer is {transfer!r}, but {entry.source} is no file on this machine; give copy"])


def complete_folder(
    folder: Path, rows: Iterable[IndexRow], facts: dict[str, str], left_out: dict[str, str], csv_formulas: str
) -> Layout:
    """Writes the index and the table of images that were left out, and removes the journal. Returns how the folders
    lie.

    Raises:
        InvalidDatasetError: if they are parts of a data set, which an index of references cannot tell apart.
    """
    layout = Layout(row.name for row in rows)
    if layout.parts() and facts[TRANSFER] == REFERENCE:
        raise parts_by_reference(facts[SOURCE], layout)
    write_index(folder, rows, facts)
    write_left_out(folder, left_out, csv_formulas)
    (folder / JOURNAL_NAME).unlink()
    return layout


def write_left_out(folder: Path, left_out: dict[str, str], csv_formulas: str) -> None:
    """A table of the images that were left out, and why; none if there are none."""
    (folder / LEFT_OUT_NAME).unlink(missing_ok=True)
    if left_out:
        rows = [(encodable(source), reason) for source, reason in left_out.items()]
        table = pd.DataFrame(rows, columns=["source", "reason"])
        write_csv(table, folder / LEFT_OUT_NAME, csv_formulas)


def classes_in(folder: Path, layout: Layout) -> tuple[str, ...]:
    """Returns the names of class folders, of a data set in parts those within the parts. One may have no readable
    image."""
    if parts := layout.parts():
        return tuple(sorted({label for part in parts for label in layout.labels(part)}))
    return tuple(sorted({*layout.folders[""], *(entry.name for entry in folder.iterdir() if entry.is_dir())}))


def advice_on(layout: Layout, output: str) -> str:
    """Returns a line about unusual folders; empty if there is nothing unusual."""
    loose = layout.images[""] if layout.folders[""] else 0
    beside = f"{loose} of them beside the class folders" if loose else ""
    return "; ".join(filter(None, [beside, layout.problem(output) or layout.advice(output)]))


def parts_by_reference(source: str, layout: Layout) -> InvalidDatasetError:
    problem = f"its folders {join_names(map(repr, layout.parts()))} are parts of a data set, and no classes"
    return InvalidDatasetError(source, f"{problem}. Convert each of them alone, or give --transfer copy")


def explain_no_images(source: str, ignored: Ignored, left_out: dict[str, str]) -> InvalidDatasetError:
    if not left_out:
        return no_images(source, ignored)
    examples = {reason: name for name, reason in reversed(left_out.items())}
    others = {reason: count - 1 for reason, count in Counter(left_out.values()).most_common()}
    more = {reason: f", and {count} more like it" if count else "" for reason, count in others.items()}
    reasons = join_names((f"{examples[reason]} ({reason}{more[reason]})" for reason in others), REASONS)
    return InvalidDatasetError(source, f"none of its {len(left_out)} images can be read: {reasons}")
