"""Lines and rows of untrusted text files, with a limit on their length."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from mlflow_resnet.errors import InvalidTableError

MAX_LINE_CHARACTERS = 4 * 2**20  # of a line of JSON, or of a row of CSV with its line breaks
DELIMITERS = ",;\t|"  # a comma if the header has one, otherwise what it has: Excel writes semicolons in half of Europe
MARKS = {  # how a file in each encoding begins; the first that fits
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def open_text(path: Path, errors: str = "strict", newline: str | None = None) -> IO[str]:
    """A text file in UTF-8 or, as its first bytes say, in UTF-16 or UTF-32."""
    with open(path, "rb") as file:
        begin = file.read(4)
    encoding = next((name for mark, name in MARKS.items() if begin.startswith(mark)), "")
    if not encoding and begin[:2].count(0) == 1:  # a letter in UTF-16, where nothing marks it
        encoding = "utf-16-be" if begin[0] == 0 else "utf-16-le"
    return open(path, encoding=encoding or "utf-8", errors=errors if not encoding else "strict", newline=newline)


def describe_encoding(error: UnicodeError) -> str:
    """Returns why a file is not text, for a message."""
    byte = f" (byte 0x{error.object[error.start]:02x})" if isinstance(error, UnicodeDecodeError) else ""
    return f"it is not in UTF-8{byte}; save it as UTF-8, in Excel as CSV UTF-8"


def read_bounded_lines(file: IO[str]) -> Iterator[str]:
    """Each line with its end. Raises InvalidTableError about one over the limit."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARACTERS + 1), ""), 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise InvalidTableError(f"line {number} is over the limit of {MAX_LINE_CHARACTERS // 2**20} MiB")
        yield line


def read_bounded_rows(file: IO[str]) -> Iterator[list[str]]:
    """Each row of CSV. Raises InvalidTableError about one over the limit, or what is no CSV."""
    taken = 0
    every_line = read_bounded_lines(file)
    first = next(filter(str.strip, every_line), "")
    unquoted = "".join(first.split('"')[::2])
    delimiter = next((each for each in DELIMITERS if each in unquoted), ",")
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own way to say it
        delimiter, first = first[4], next(every_line, "")

    def lines() -> Iterator[str]:
        nonlocal taken
        for line in chain([first] if first else [], every_line):
            taken += len(line)
            if taken > MAX_LINE_CHARACTERS:
                raise InvalidTableError(f"a row is over the limit of {MAX_LINE_CHARACTERS // 2**20} MiB")
            yield line

    try:
        for row in csv.reader(lines(), delimiter=delimiter):
            taken = 0
            yield row
    except csv.Error as error:
        raise InvalidTableError(f"no CSV ({error})") from None
