"""Makes an image directory of a source: reads, checks and writes each image, and goes on after an interruption."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mlflow_resnet.errors import (
    InvalidDatasetError,
    InvalidImageError,
    InvalidOptionsError,
    OutputError,
    encodable,
    listed,
)
from mlflow_resnet.images.conversion.entries import Entry, entries_of, label_problem
from mlflow_resnet.images.conversion.journal import JOURNAL_NAME, Journal
from mlflow_resnet.images.conversion.tables import Columns
from mlflow_resnet.images.decode import MAX_IMAGE_BYTES, decode, usual_suffix
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.index import REFERENCE, SOURCE, TRANSFER, IndexRow, read_index, write_index
from mlflow_resnet.images.layout import Layout
from mlflow_resnet.images.names import path_below
from mlflow_resnet.images.output import check_outside, resumable_directory
from mlflow_resnet.images.parallel import default_threads, map_ordered
from mlflow_resnet.images.reasons import os_reason
from mlflow_resnet.images.rules import LEFT_OUT_NAME, Ignored, is_image
from mlflow_resnet.text.credentials import without_credentials
from mlflow_resnet.text.spreadsheets import QUOTED, write_csv


@dataclass(frozen=True)
class Converted:
    """What `convert` made.

    Attributes:
        images: in the directory; `added` are those that an earlier call had not put there.
        classes: also those in the parts of a data set, such as train and valid, if the source has these.
        unreadable: source -> why it was left out.
        advice: what is unusual about the folders, and how to train on them; empty if nothing is.
    """

    images: int
    added: int
    classes: tuple[str, ...]
    unreadable: dict[str, str]
    ignored: Ignored
    parts: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Examined:
    """An image that was read: its bytes, and all of its row but the name it will have."""

    entry: Entry
    content: bytes
    row: IndexRow | None
    problem: str = ""


def convert(
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
    on_image: Callable[[], object] = lambda: None,
) -> Converted:
    """Copies the readable images of a source to `output_dir`, in class folders or flat, and lists them in an index.

    A call that was interrupted is gone on with by the next one; one for a directory that is complete adds what is new.

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
        on_image: called for each image, in this thread.

    Raises:
        InvalidDatasetError: if the source cannot be read or holds no readable image.
        OutputError: if `output_dir` cannot be written, or holds something else.
    """
    source, output, ignored, left_out = os.fspath(source), os.fspath(output_dir), Counter[str](), dict[str, str]()
    if os.path.isdir(source):
        check_outside(source, output)
    facts = {SOURCE: without_credentials(encodable(source)), TRANSFER: transfer}
    with (
        resumable_directory(output_dir, key_of(facts), lambda path: read_index(path)[1] == facts) as folder,
        Journal(folder) as journal,
    ):
        journal.recall(read_index(folder)[0])
        before = set(journal.rows)
        taken = {row.name.casefold() for row in journal.rows.values()}
        columns = Columns(image_column, label_column)
        new = unknown(entries_of(source, columns, image_root, ignored, follow_links), journal)
        for examined in map_ordered(examine, new, threads or default_threads(), weigh=lambda entry: entry.size):
            if examined.row is None:
                left_out[examined.entry.source] = examined.problem
                keep_class(folder, examined.entry)
            else:
                store(examined, examined.row, folder, journal, taken, transfer)
            on_image()
        rows = journal.rows.values()
        if not rows:
            raise nothing(source, Ignored(**ignored), left_out)
        layout = complete(folder, rows, facts, left_out, csv_formulas)
        classes = classes_in(folder, layout)
    added, parts, advice = len(journal.rows.keys() - before), tuple(layout.parts()), advice_on(layout, output)
    return Converted(len(rows), added, classes, left_out, Ignored(**ignored), parts, advice)


def key_of(facts: dict[str, str]) -> str:
    """8 hex digits that identify a conversion."""
    return hashlib.sha256("\0".join(facts.values()).encode()).hexdigest()[:8]


def unknown(entries: Iterable[Entry], journal: Journal) -> Iterator[Entry]:
    """The entries that are not in the journal, or have another size, each once.

    Those of an archive are read here, one after the other.
    """
    sizes = {key: row.bytes for key, row in journal.rows.items()}
    for entry in entries:
        key = entry.source, entry.label
        if key not in sizes or sizes[key] != size_of(entry, sizes[key]):
            sizes[key] = size_of(entry, -1)
            yield fetched(entry)


def fetched(entry: Entry) -> Entry:
    """The entry with its bytes, if they can only be read now, and with their number."""
    if not entry.in_archive or entry.problem:
        return replace(entry, size=size_of(entry, entry.size))
    content = entry.read()
    return replace(entry, read=always(content), size=len(content))


def size_of(entry: Entry, otherwise: int) -> int:
    """Bytes of the entry's file, if it is one on this machine."""
    try:
        return os.stat(entry.path).st_size if entry.path else otherwise
    except OSError:
        return otherwise


def always(content: bytes) -> Callable[[], bytes]:
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


def named(examined: Examined) -> str:
    """The entry's name, with a suffix if it has none that images have."""
    name = examined.entry.name
    return name if is_image(name) else name + usual_suffix(examined.content)


def unique(name: str, taken: set[str]) -> str:
    """`name`, with a number before its suffix if it is taken, also in another case. `taken` learns it."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


def store(examined: Examined, row: IndexRow, folder: Path, journal: Journal, taken: set[str], transfer: str) -> None:
    """Puts an image below `folder`, where an earlier call had it, or under a name that is not taken."""
    name = journal.name_of(examined.entry.source, examined.entry.label) or unique(named(examined), taken)
    write(path_below(folder, name), examined, transfer)
    journal.add(replace(row, name=name))


def write(path: Path, examined: Examined, transfer: str) -> None:
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


def complete(
    folder: Path, rows: Iterable[IndexRow], facts: dict[str, str], left_out: dict[str, str], csv_formulas: str
) -> Layout:
    """Writes the index and the table of what was left out; the journal has no more to say. Returns how the folders lie.

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
    """What the class folders are called, of parts of a data set those in them. One may have no readable image."""
    if parts := layout.parts():
        return tuple(sorted({label for part in parts for label in layout.labels(part)}))
    return tuple(sorted({*layout.folders[""], *(entry.name for entry in folder.iterdir() if entry.is_dir())}))


def advice_on(layout: Layout, output: str) -> str:
    """What is unusual about the folders, in a line."""
    loose = layout.images[""] if layout.folders[""] else 0
    beside = f"{loose} of them beside the class folders" if loose else ""
    return "; ".join(filter(None, [beside, layout.problem(output) or layout.advice(output)]))


def parts_by_reference(source: str, layout: Layout) -> InvalidDatasetError:
    problem = f"its folders {listed(map(repr, layout.parts()))} are parts of a data set, and no classes"
    return InvalidDatasetError(source, f"{problem}. Convert each of them alone, or give --transfer copy")


def nothing(source: str, ignored: Ignored, left_out: dict[str, str]) -> InvalidDatasetError:
    if not left_out:
        return no_images(source, ignored)
    reasons = listed(f"{name} ({reason})" for name, reason in left_out.items())
    return InvalidDatasetError(source, f"none of its {len(left_out)} images can be read: {reasons}")
