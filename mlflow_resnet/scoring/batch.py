"""Scores images to a file, streamed: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import OutputError
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.frame import scored_frame, text_columns

ROWS_PER_WRITE = 1024
Write = Callable[[pd.DataFrame], object]


@dataclass(frozen=True)
class ScoredFile:
    """What was written: the number of rows, of unreadable images among them, and the first rows."""

    path: Path
    rows: int
    unreadable: int
    head: pd.DataFrame


def score_to_file(
    predictor: Predictor,
    sources: Iterable[ImageSource],
    path: Path,
    output: str,
    *,
    batch_size: int = 32,
    top_k: int = 0,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> ScoredFile:
    """Writes one row per source, in order, to `path` in the format that the suffix of `output` names.

    Args:
        path: where to write; the caller moves it to `output` when it is complete.
        on_rows: told how many rows were just written.
    """
    rows, unreadable, head = 0, 0, scored_frame([], predictor.classes, top_k)
    predictions = predictor.predict(sources, batch_size)
    with WRITERS[Path(output).suffix](path, head) as write:
        while chunk := list(islice(predictions, ROWS_PER_WRITE)):
            frame = scored_frame(chunk, predictor.classes, top_k)
            write(frame)
            head = frame.head() if rows == 0 else head
            rows += len(chunk)
            unreadable += sum(prediction.probabilities is None for prediction in chunk)
            on_rows(len(chunk))
    return ScoredFile(Path(output), rows, unreadable, head)


def check_suffix(output: str) -> None:
    """Raises OutputError unless the suffix of `output` names a format."""
    if Path(output).suffix not in WRITERS:
        raise OutputError(output, f"unknown format; end the name with one of {', '.join(WRITERS)}.")


@contextmanager
def parquet_writer(path: Path, empty: pd.DataFrame) -> Iterator[Write]:
    text = text_columns(empty.columns)
    kinds = [pa.string() if name in text else pa.float64() for name in empty.columns]
    schema = pa.schema(list(zip(empty.columns, kinds, strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda frame: writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))


@contextmanager
def csv_writer(path: Path, empty: pd.DataFrame) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        empty.to_csv(file, index=False)
        yield lambda frame: frame.to_csv(file, index=False, header=False)


@contextmanager
def jsonl_writer(path: Path, empty: pd.DataFrame) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8") as file:
        yield lambda frame: frame.to_json(file, orient="records", lines=True, force_ascii=False, double_precision=15)


# By suffix: opens a file for frames with the columns of an empty one, and gives a function that writes the next frame.
WRITERS = {".parquet": parquet_writer, ".csv": csv_writer, ".jsonl": jsonl_writer}
