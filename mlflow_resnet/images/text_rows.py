"""Lines and rows of a text file, which may be a stranger's: one without an end is not read to its end."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO

from mlflow_resnet.errors import InvalidTableError

MAX_LINE_CHARACTERS = 4 * 2**20  # of a line of JSON, or of a row of CSV with its line breaks


def read_bounded_lines(file: IO[str]) -> Iterator[str]:
    """Each line with its end. Raises InvalidTableError about one over the limit."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARACTERS + 1), ""), 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise InvalidTableError(f"line {number} is over the limit of {MAX_LINE_CHARACTERS // 2**20} MiB")
        yield line


def read_bounded_rows(file: IO[str]) -> Iterator[list[str]]:
    """Each row of CSV. Raises InvalidTableError about one over the limit, or what is no CSV."""
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for line in read_bounded_lines(file):
            taken += len(line)
            if taken > MAX_LINE_CHARACTERS:
                raise InvalidTableError(f"a row is over the limit of {MAX_LINE_CHARACTERS // 2**20} MiB")
            yield line

    try:
        for row in csv.reader(lines()):
            taken = 0
            yield row
    except csv.Error as error:
        raise InvalidTableError(f"no CSV ({error})") from None
