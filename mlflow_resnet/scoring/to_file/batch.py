"""Scores images to a file, streamed: memory does not grow with their number."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.io.parallel import ahead
from mlflow_resnet.io.text.places import result_place
from mlflow_resnet.io.text.spreadsheets import QUOTED, write_csv
from mlflow_resnet.model.prediction import IMAGE, Prediction, Predictor
from mlflow_resnet.scoring.columns import ERROR, SCORED_LABELS, build_scored_frame, text_columns
from mlflow_resnet.scoring.to_file.parts import ROWS_PER_PART, Parts

SECONDS_PER_PART = 5.0
SCORED_BATCHES_AHEAD = 2
MAX_REASONS = 100  # that are told apart, however many images there are
OTHERS = "other reasons"
WITH_DIGITS = re.compile(r"\w*\d\w*")  # a size, an offset, an address: of one image
Write = Callable[[pa.Table], object]


@dataclass(frozen=True)
class Reason:
    """Why images could not be read, the first of them, and the number of those that share it, digits aside."""

    text: str
    example: str
    count: int = 0


@dataclass(frozen=True)
class ScoredFile:
    """Result of `score`: numbers of rows, unreadable and unsure ones, and the first rows.

    Attributes:
        path: text if it is in S3.
        reasons: why images could not be read, the most frequent first.
    """

    path: Path | str
    rows: int
    unreadable: int
    unsure: int
    head: pd.DataFrame
    reasons: tuple[Reason, ...] = ()


def score_to_parts(
    predictor: Predictor,
    sources: Iterable[ImageSource],
    parts: Parts,
    *,
    batch_size: int = 32,
    top_k: int = 0,
    min_confidence: float = 0.0,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> None:
    """Adds one row per source to `parts`, in order. Decoding, the network and writing go on beside each other.

    Args:
        on_rows: told how many rows were just computed.
    """
    with closing(ahead(predictor.predict_batches(sources, batch_size), SCORED_BATCHES_AHEAD)) as batches:
        for portion in portions(batches, on_rows):
            unreadable = sum(prediction.probabilities is None for prediction in portion)
            frame = build_scored_frame(portion, predictor.classes, top_k, min_confidence)
            unsure = int(frame[SCORED_LABELS].isna().sum()) - unreadable
            parts.add(build_scored_table(frame), unreadable, unsure, portion[-1].place)


def portions(batches: Iterable[list[Prediction]], on_rows: Callable[[int], object]) -> Iterator[list[Prediction]]:
    """Yields whole batches, so that a resumed call forms the same ones: batch sizes decide rounding."""
    portion, began = [], time.monotonic()
    for batch in batches:
        portion += batch
        on_rows(len(batch))
        if len(portion) >= ROWS_PER_PART or time.monotonic() - began >= SECONDS_PER_PART:
            yield portion
            portion, began = [], time.monotonic()
    if portion:
        yield portion


def build_scored_table(frame: pd.DataFrame) -> pa.Table:
    """Converts a scored frame to an Arrow table with the same types even if all rows are empty."""
    text = text_columns(frame.columns)
    schema = pa.schema([(name, pa.string() if name in text else pa.float64()) for name in frame.columns])
    return pa.Table.from_pandas(frame, schema, preserve_index=False)


def join(
    parts: Parts,
    path: Path,
    output: str,
    on_rows: Callable[[int], object] = lambda rows: None,
    csv_formulas: str = QUOTED,
) -> ScoredFile:
    """Writes all rows to `path` in the format that the suffix of `output` names, each table as a Parquet row group.

    Args:
        path: where to write; the caller moves it to `output` when it is complete.
        on_rows: told how many rows were just written.
        csv_formulas: see `text.spreadsheets`.

    Raises:
        OutputError: if a part was damaged meanwhile.
    """
    reasons: dict[str, Reason] = {}
    tables = parts.tables()
    first = next(tables)
    with WRITERS[Path(output).suffix](path, first.schema, csv_formulas) as write:
        for table in itertools.chain([first], tables):
            write(table)
            count_reasons(table, reasons)
            on_rows(len(table))
    head, done = first.slice(0, 5).to_pandas(), parts.progress
    most_first = tuple(sorted(reasons.values(), key=lambda reason: -reason.count))
    return ScoredFile(result_place(output), done.rows, done.unreadable, done.unsure, head, most_first)


def count_reasons(rows: pa.Table, reasons: dict[str, Reason]) -> None:
    """Counts the unreadable images among `rows`, not those without a label because the model is unsure."""
    text = text_columns(rows.column_names)
    probability = next(name for name in rows.column_names if name not in text)
    frame = rows.select([IMAGE, ERROR, probability]).to_pandas()
    unread = frame[frame[probability].isna()]
    for image, error in zip(unread[IMAGE], unread[ERROR], strict=True):
        kind, reason = WITH_DIGITS.sub("…", error), Reason(error, image)
        if kind not in reasons and len(reasons) >= MAX_REASONS:
            kind, reason = OTHERS, Reason(OTHERS, image)
        known = reasons.get(kind, reason)
        reasons[kind] = replace(known, count=known.count + 1)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, formulas: str) -> Iterator[Write]:
    with pq.ParquetWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def csv_writer(path: Path, schema: pa.Schema, formulas: str) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        write_csv(schema.empty_table().to_pandas(), file, formulas)
        yield lambda table: write_csv(table.to_pandas(), file, formulas, header=False)


@contextmanager
def jsonl_writer(path: Path, schema: pa.Schema, formulas: str) -> Iterator[Write]:
    options = {"orient": "records", "lines": True, "force_ascii": False, "double_precision": 15}
    with open(path, "w", encoding="utf-8") as file:
        yield lambda table: table.to_pandas().to_json(file, **options)


# By suffix: opens a file for tables with the columns of a schema, and gives a function that writes the next table.
WRITERS = {".parquet": parquet_writer, ".csv": csv_writer, ".jsonl": jsonl_writer}
