"""Groups of images that a split must keep together."""

from __future__ import annotations

import re
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, join_names, printable
from mlflow_resnet.images.cells import format_cell, spell_path
from mlflow_resnet.images.conversion.tables import IMAGE_COLUMNS, choose_column, read_rows, read_table_columns
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.pairs import equal_pairs, find_components, look_alike_pairs
from mlflow_resnet.images.scan import scan
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.options.split import SplitOptions


def assign_groups(directory: LabeledDirectory, options: SplitOptions) -> list[int]:
    """The number of each image's group. Images that share any mark are in one group, and so are those between them.

    A mark is what the regex finds in the name, the cell of the table, the pixels, or what the picture looks like.

    Raises:
        InvalidOptionsError: if the regex is none.
        InvalidDatasetError: if an image is not in the table, or the regex does not find anything in its name.
    """
    pairs: list[tuple[int, int]] = []
    if options.group_regex:
        pairs += equal_pairs(marks_by_name(directory, options.group_regex))
    if options.group_table:
        pairs += equal_pairs(marks_by_table(directory, options.group_table, options.group_column))
    if options.duplicates != "ignore":
        threads = options.num_workers or default_threads()
        facts = scan(directory, threads, looks=options.duplicates == "near").facts
        found = [facts[name] for name in directory.names]
        pairs += equal_pairs([each.pixels or index for index, each in enumerate(found)])
        pairs += look_alike_pairs([each.look for each in found])
    return find_components(len(directory), pairs)


def marks_by_name(directory: LabeledDirectory, regex: str) -> list[str]:
    """Returns the match of `regex` in each name below its class folder: its first bracket if it has one."""
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

    Raises InvalidDatasetError if the table cannot be used, or an image has no group, or several.
    """
    path = Path(table)
    columns = read_table_columns(path)
    image = choose_column(path, "image", "", (*IMAGE_COLUMNS, "name"), columns)
    group = choose_column(path, "group", column, (), columns)
    marks: dict[str, str] = {}
    for row in read_rows(path, {image, group}):
        name, cell = spell_path(format_cell(row.get(image)))[-1], row.get(group)
        mark = str(cell or "") if isinstance(cell, list | dict) else format_cell(cell)
        if name and mark and marks.setdefault(name, mark) != mark:
            problem = f"{printable(name)} is in two groups of {group}: {printable(marks[name])} and {printable(mark)}"
            raise InvalidDatasetError(table, f"{problem}. Every image needs one.")
    by_file: dict[str, str | None] = {}  # None for a name that has several marks
    for name, mark in marks.items():
        file = name.rpartition("/")[2]
        by_file[file] = mark if by_file.get(file, mark) == mark else None
    found = [  # by the whole name, by the part below the class, or by the file's name alone
        marks.get(name) or marks.get(name.partition("/")[2]) or by_file.get(name.rpartition("/")[2])
        for name in directory.names
    ]
    lost = [printable(name) for name, mark in zip(directory.names, found, strict=True) if mark is None]
    if lost:
        problem = f"{len(lost)} images of {directory.source} have no row, or no {column}: {join_names(lost)}"
        raise InvalidDatasetError(table, f"{problem}. Every image needs a group.")
    return found
