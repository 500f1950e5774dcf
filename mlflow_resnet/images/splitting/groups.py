"""Groups of images that a split must keep together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, join_names, printable
from mlflow_resnet.images.cells import format_cell, spell_path
from mlflow_resnet.images.conversion.tables import IMAGE_COLUMNS, choose_column, read_rows, read_table_columns
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.look_alikes import look_alike_pairs
from mlflow_resnet.images.scan import scan
from mlflow_resnet.images.splitting.connected import equal_pairs, find_components


def assign_groups(
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
    return find_components(len(directory), pairs)


def marks_by_name(directory: LabeledDirectory, regex: str) -> list[str]:
    """Returns the match of `regex` in each name."""
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise InvalidOptionsError([f"group_regex is {regex!r}, which is no regular expression ({error})"]) from None
    found = [pattern.search(name.partition("/")[2]) for name in directory.names]
    lost = [printable(name) for name, match in zip(directory.names, found, strict=True) if not match]
    if lost:
        problem = f"group_regex {regex!r} finds nothing in {len(lost)} names: {join_names(lost)}"
        raise InvalidDatasetError(directory.source, f"{problem}. Every image needs a group.")
    return [match[1] if pattern.groups else match[0] for match in found if match]


def marks_by_table(directory: LabeledDirectory, table: str, column: str) -> list[str | None]:
    """The cell of each image's row. A row is an image's if its path ends as the image's name does.

    Raises:
        InvalidDatasetError: if the table cannot be used, or an image has no group, or several.
    """
    path = Path(table)
    columns = read_table_columns(path)
    image = choose_column(path, "image", "", (*IMAGE_COLUMNS, "name"), columns)
    group = choose_column(path, "group", column, (), columns)
    marks: dict[str, str] = {}
    for row in read_rows(path, {image, group}):
        name, mark = spell_path(format_cell(row.get(image)))[-1], format_group(row.get(group))
        if name and mark and marks.setdefault(name, mark) != mark:
            problem = f"{printable(name)} is in two groups of {group}: {printable(marks[name])} and {printable(mark)}"
            raise InvalidDatasetError(table, f"{problem}. Every image needs one.")
    by_file = index_by_file(marks)
    found = [find_mark(name, marks, by_file) for name in directory.names]
    lost = [printable(name) for name, mark in zip(directory.names, found, strict=True) if mark is None]
    if lost:
        problem = f"{len(lost)} images of {directory.source} have no row, or no {column}: {join_names(lost)}"
        raise InvalidDatasetError(table, f"{problem}. Every image needs a group.")
    return found


def format_group(cell: object) -> str:
    """A cell as the name of a group; a list or a record is one too, if it is not empty."""
    return str(cell or "") if isinstance(cell, list | dict) else format_cell(cell)


def find_mark(name: str, marks: Mapping[str, str], by_file: Mapping[str, str | None]) -> str | None:
    """The mark of the image `class/…/file`: by that name, by the part below the class, or by the file's name alone."""
    for known in (name, name.partition("/")[2]):
        if known in marks:
            return marks[known]
    return by_file.get(name.rpartition("/")[2])


def index_by_file(marks: Mapping[str, str]) -> dict[str, str | None]:
    """By the file's name alone; None for a name that has several marks."""
    by_file: dict[str, str | None] = {}
    for path, mark in marks.items():
        file = path.rpartition("/")[2]
        by_file[file] = mark if by_file.get(file, mark) == mark else None
    return by_file
