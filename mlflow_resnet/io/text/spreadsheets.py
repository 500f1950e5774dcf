"""Cells of CSV files. A spreadsheet takes text that begins with one of a few characters for a formula, and runs it."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from typing import TextIO

import pandas as pd
from pandas.api.types import is_numeric_dtype

QUOTED, RAW = "quoted", "raw"  # whether such text gets an apostrophe in front, which makes it text again
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
BREAKS = re.compile(r"[\r;\t]")  # begins another cell in some programs, unless the whole text has quotation marks
NUMERIC_CELL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
OURS = (("image", "Scored Labels"), ("image", "label", "confidence"), ("source", "reason"))  # how our headers begin


def write_csv(
    table: pd.DataFrame, file: str | os.PathLike[str] | TextIO, formulas: str = QUOTED, header: bool = True
) -> None:
    """Writes a table as CSV, in which no cell of text is, or begins, a formula, unless `formulas` is RAW."""
    table = without_formulas(table, formulas)
    text = [column for _, column in table.items() if not is_numeric_dtype(column)]
    breaks = any(isinstance(cell, str) and BREAKS.search(cell) for column in text for cell in column)
    table.to_csv(file, index=False, header=header, quoting=csv.QUOTE_NONNUMERIC if breaks else csv.QUOTE_MINIMAL)


def without_formulas(table: pd.DataFrame, formulas: str = QUOTED) -> pd.DataFrame:
    """The table as it may become a CSV file. `formulas` is QUOTED, or RAW for the table as it is."""
    if formulas == RAW:
        return table
    columns = {quote(name): column if is_numeric_dtype(column) else column.map(quote) for name, column in table.items()}
    return pd.DataFrame(columns, index=table.index)


def quote(cell: object) -> object:
    """A cell with an apostrophe in front if it is text that a spreadsheet would run. Numbers stay numbers.

    Text that begins with apostrophes before such a character gets one more, so that `strip_quote` can undo it.
    """
    if isinstance(cell, str) and FORMULA.match(cell) and not NUMERIC_CELL.fullmatch(cell):
        return f"'{cell}"
    return cell


def strip_quote(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def is_ours(header: Sequence[str]) -> bool:
    """Returns whether a header is of our own files, where a leading apostrophe is an escape."""
    return any(tuple(header[: len(begin)]) == begin for begin in OURS)
