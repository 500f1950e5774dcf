"""Which images belong together, so that a split must not tear them apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, listed, printable
from mlflow_resnet.images.conversion.tables import IMAGE_COLUMNS, chosen, rows_of
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.look_alikes import look_alike_pairs
from mlflow_resnet.images.scan import scan
from mlflow_resnet.images.splitting.connected import connected, equal_pairs


def groups_of(
    directory: LabeledDirectory,
    *,
    group_regex: str = "",
    group_table: str = "",
    group_column: str = "",
    duplicates: str = "ignore",
    threads: int = 1,
) -> list[int]:
    """The number of each image's group. Images that share any mark are in one group, and so are those between them.

    Args:
        group_regex: the mark is what this finds in the name below its class folder: its first bracket if it has one.
        group_table: .csv, .parquet or .jsonl with a row per image, whose `group_column` is the mark.
        duplicates: "exact": pictures with the same pixels are together; "near": also those that look alike.

    Raises:
        InvalidOptionsError: if the regex is none.
        InvalidDatasetError: if an image is not in the table, or the regex does not find anything in its name.
    """
    marks: list[Sequence[object]] = []
    if group_regex:
        marks.append(marks_by_name(directory, group_regex))
    if group_table:
        marks.append(marks_by_table(directory, group_table, group_column))
    pairs = [pair for column in marks for pair in equal_pairs(column)]
    if duplicates != "ignore":
        facts = scan(directory, threads, looks=duplicates == "near").facts
        found = [facts[name] for name in directory.names]
        pairs += equal_pairs([each.pixels or index for index, each in enumerate(found)])
        pairs += look_alike_pairs([each.look for each in found])
    return connected(len(directory), pairs)


def marks_by_name(directory: LabeledDirectory, regex: str) -> list[str]:
    """What `regex` finds in each name."""
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise InvalidOptionsError([f"group_regex is {regex!r}, which is no regular expression ({error})"]) from None
    found = [pattern.search(name.partition("/")[2]) for name in directory.names]
    lost = [printable(name) for name, match in zip(directory.names, found, strict=True) if not match]
    if lost:
        problem = f"group_regex {regex!r} finds nothing in {len(lost)} names: {listed(lost)}"
        raise InvalidDatasetError(directory.source, f"{problem}. Every image needs a group.")
    return [match[1] if pattern.groups else match[0] for match in found if match]


def marks_by_table(directory: LabeledDirectory, table: str, column: str) -> list[object]:
    """The cell of each image's row. A row is an image's if its path ends as the image's name does."""
    path = Path(table)
    marks: dict[str, object] = {}
    image = group = ""
    for row in rows_of(path, {column, *IMAGE_COLUMNS, "name"}):
        image = image or chosen(path, "image", "", (*IMAGE_COLUMNS, "name"), row)
        group = group or chosen(path, "group", column, (), row)
        marks[str(row.get(image))] = make_hashable(row.get(group))
    by_file = unambiguous(marks)
    found = [mark_of(name, marks, by_file) for name in directory.names]
    lost = [printable(name) for name, mark in zip(directory.names, found, strict=True) if mark is None]
    if lost:
        problem = f"{len(lost)} images of {directory.source} have no row, or no {column}: {listed(lost)}"
        raise InvalidDatasetError(table, f"{problem}. Every image needs a group.")
    return found


def make_hashable(cell: object) -> object:
    """A cell as a mark, also one that is a list or a record."""
    return str(cell) if isinstance(cell, (list, dict)) else cell


def mark_of(name: str, marks: Mapping[str, object], by_file: Mapping[str, object]) -> object:
    """The mark of the image `class/…/file`: by that name, by the part below the class, or by the file's name alone."""
    for known in (name, name.partition("/")[2]):
        if marks.get(known) is not None:
            return marks[known]
    return by_file.get(name.rpartition("/")[2])


def unambiguous(marks: Mapping[str, object]) -> dict[str, object]:
    """By the file's name alone; None for a name that has several marks."""
    by_file: dict[str, object] = {}
    for path, mark in marks.items():
        file = path.rpartition("/")[2]
        by_file[file] = mark if by_file.get(file, mark) == mark else None
    return by_file
