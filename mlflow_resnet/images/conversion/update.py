"""Makes an image directory from a source: reads, checks and writes each image, and resumes after interruption."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, encodable, join_names
from mlflow_resnet.images.conversion.changes import JOURNAL_NAME, Journal, Survey, Update, describe_update
from mlflow_resnet.images.conversion.entries import Entry, Listing, is_listing, label_problem, open_source
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES, decode
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.index import REFERENCE, SOURCE, TRANSFER, IndexRow, read_index, write_index
from mlflow_resnet.images.layout import Layout
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.io.atomic import check_outside, resumable_directory
from mlflow_resnet.io.own_folders import INDEX_NAME, LEFT_OUT_NAME
from mlflow_resnet.io.parallel import default_threads, map_ordered
from mlflow_resnet.io.text.characters import is_utf8
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.io.text.spreadsheets import write_csv
from mlflow_resnet.options.convert import ConvertOptions

REASONS = 5  # in the message that no image can be read


@dataclass(frozen=True)
class Converted:
    """Result of `convert`.

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


def convert_source(
    options: ConvertOptions, output_dir: str | os.PathLike[str], on_image: Callable[[], object] = lambda: None
) -> Converted:
    """Copies the readable images of a source to `output_dir`, in class folders or flat, and lists them in an index.

    A call that was interrupted is gone on with by the next one. One for a directory that is complete adds what is new,
    moves what has another label now, and removes what a table does not name any more.

    Args:
        output_dir: where to write; sentences call it `options.output_dir`.
        on_image: called for each image, in this thread.

    Raises InvalidDatasetError if the source cannot be read or holds no readable image, OutputError if `output_dir`
    cannot be written or holds something else.
    """
    if os.path.isdir(options.source):
        check_outside(options.source, output_dir)
    facts = {SOURCE: without_credentials(encodable(options.source)), TRANSFER: options.transfer}
    key = hashlib.sha256("\0".join(facts.values()).encode()).hexdigest()[:8]
    ignored, left_out = Counter[str](), dict[str, str]()
    with (
        resumable_directory(output_dir, key, lambda path: read_index(path)[1] == facts) as folder,
        Journal(folder) as journal,
    ):
        listing, notes = open_source(options)
        since = find_last_call_time(folder)
        update = Update(folder, journal, output_dir, options.transfer)
        says_what_belongs = is_listing(options.source)
        is_needed = update.before or says_what_belongs
        survey = Survey(list_entries(listing, options.transfer, Counter()) if is_needed else ())
        update.move_images(survey, says_what_belongs)
        entries = map(survey.check, list_entries(listing, options.transfer, ignored))
        new = find_new_entries(entries, journal, since)
        threads = options.num_workers or default_threads()
        for entry, content, row in map_ordered(examine, new, threads, weigh=lambda entry: entry.size):
            if isinstance(row, IndexRow):
                update.add_image(entry, content, row)
            else:
                left_out[entry.place or entry.source] = row
                keep_class(folder, entry)
            on_image()
        kept = update.remove_gone(survey) if update.before else []
        if not journal.rows:
            raise explain_no_images(options.source, Ignored(**ignored), left_out)
        layout = complete_folder(folder, journal.rows.values(), facts, left_out, options.csv_formulas)
        classes = find_class_folders(folder, layout)
    moved, left, added = update.find_changes()
    return Converted(
        images=len(journal.rows),
        added=added,
        classes=classes,
        unreadable=left_out,
        ignored=Ignored(**ignored),
        notes=(*notes, *describe_update(moved, left, kept, survey.repeated, classes)),
        parts=tuple(layout.parts()),
        advice=advise(layout, options.output_dir),
    )


def list_entries(listing: Listing, transfer: str, ignored: Counter[str]) -> Iterator[Entry]:
    """Yields the entries of a source, each with a unique pair of `source` and label unless it is a repetition.

    Of files whose names are escaped alike, each has another `source`. One that an index cannot refer to is unusable.
    """
    paths: dict[tuple[str, str], str] = {}
    for entry in listing(ignored):
        while "\\x" in entry.source and paths.setdefault((entry.source, entry.label), entry.path) != entry.path:
            entry = replace(entry, source=f"{entry.source}#")
        if transfer == REFERENCE and entry.path and not is_utf8(entry.path):
            entry = replace(entry, problem="its path is not UTF-8; rename it, or give transfer copy")
        yield entry


def find_last_call_time(folder: Path) -> float:
    """Returns when an earlier call last wrote its index or journal; 0 if there is none."""
    for name in (INDEX_NAME, JOURNAL_NAME):
        with suppress(OSError):
            return os.stat(folder / name).st_mtime
    return 0


def find_new_entries(entries: Iterable[Entry], journal: Journal, since: float) -> Iterator[Entry]:
    """The entries that are not in the journal, or have changed `since`, each once.

    Those of an archive are read here, one after the other.
    """
    seen = set[tuple[str, str]]()
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
    with suppress(OSError):  # it has none
        status = os.stat(entry.path)
        last = status.st_mtime if status.st_nlink > 1 else max(status.st_mtime, status.st_ctime)
        return status.st_size != row.bytes or last > since
    return False


def fetch_entry(entry: Entry) -> Entry:
    """The entry with its bytes, if they can only be read now, and with their number."""
    if entry.in_archive and not entry.problem:
        content = entry.read()
        return replace(entry, read=lambda: content, size=len(content))
    with suppress(OSError):  # it is no file on this machine
        return replace(entry, size=os.stat(entry.path).st_size)
    return entry


def examine(entry: Entry) -> tuple[Entry, bytes, IndexRow | str]:
    """Reads and decodes an image in full.

    Returns its bytes, and its row in the index, which lacks the name; or the reason why it cannot be used.
    """
    if entry.problem:
        return entry, b"", entry.problem
    try:
        content = entry.read()
        if len(content) > MAX_IMAGE_BYTES:
            raise InvalidImageError(f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image")
        width, height = decode(content).size
    except InvalidImageError as error:
        return entry, b"", error.message
    digest = hashlib.sha256(content).hexdigest()
    return entry, content, IndexRow("", entry.label, entry.source, len(content), width, height, digest)


def keep_class(folder: Path, entry: Entry) -> None:
    """A class all of whose images are unreadable is still a class, which training then asks about."""
    if entry.label and not label_problem(entry.label):
        with suppress(OSError):
            (folder / entry.label).mkdir(exist_ok=True)


def complete_folder(
    folder: Path, rows: Iterable[IndexRow], facts: dict[str, str], left_out: dict[str, str], csv_formulas: str
) -> Layout:
    """Writes the index and a table of the images that were left out, and why; none if there are none. Removes the
    journal. Returns how the folders lie.

    Raises InvalidDatasetError if they are parts of a data set, which an index of references cannot tell apart.
    """
    layout = Layout(row.name for row in rows)
    if (parts := layout.parts()) and facts[TRANSFER] == REFERENCE:
        problem = f"its folders {join_names(map(repr, parts))} are parts of a data set, and no classes"
        raise InvalidDatasetError(facts[SOURCE], f"{problem}. Convert each of them alone, or give --transfer copy")
    write_index(folder, rows, facts)
    (folder / LEFT_OUT_NAME).unlink(missing_ok=True)
    if left_out:
        named = [(encodable(source), reason) for source, reason in left_out.items()]
        write_csv(pd.DataFrame(named, columns=["source", "reason"]), folder / LEFT_OUT_NAME, csv_formulas)
    (folder / JOURNAL_NAME).unlink()
    return layout


def find_class_folders(folder: Path, layout: Layout) -> tuple[str, ...]:
    """Returns the names of class folders, of a data set in parts those within the parts. One may have no readable
    image."""
    if parts := layout.parts():
        return tuple(sorted(set().union(*map(layout.labels, parts))))
    return tuple(sorted({*layout.folders[""], *(entry.name for entry in folder.iterdir() if entry.is_dir())}))


def advise(layout: Layout, output: str) -> str:
    """Returns a line about unusual folders; empty if there is nothing unusual."""
    loose = layout.images[""] if layout.folders[""] else 0
    beside = f"{loose} of them beside the class folders" if loose else ""
    return "; ".join(filter(None, [beside, layout.problem(output) or layout.advice(output)]))


def explain_no_images(source: str, ignored: Ignored, left_out: dict[str, str]) -> InvalidDatasetError:
    if not left_out:
        return no_images(source, ignored)
    examples = {reason: name for name, reason in reversed(left_out.items())}
    others = {reason: count - 1 for reason, count in Counter(left_out.values()).most_common()}
    more = {reason: f", and {count} more like it" if count else "" for reason, count in others.items()}
    reasons = join_names((f"{examples[reason]} ({reason}{more[reason]})" for reason in others), REASONS)
    return InvalidDatasetError(source, f"none of its {len(left_out)} images can be read: {reasons}")
