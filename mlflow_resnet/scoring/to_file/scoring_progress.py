"""Progress of scoring: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from itertools import takewhile
from threading import Event, Thread

from tqdm import tqdm

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.io.console import progress_stream, say

SECONDS_PER_LINE = 60.0
SECONDS_BEFORE_COUNTING = 5.0  # a short call does not pay for a second listing


class ScoringProgress(AbstractContextManager["ScoringProgress"]):
    """Counts rows as they are made, and shows it until the block ends.

    `total` is 0 as long as nobody knows it, `done` what an earlier call made.
    """

    def __init__(self, title: str, unit: str, done: int = 0, total: int = 0, items: Iterable[object] = ()) -> None:
        """Args: items: as many as there will be rows in all, if `total` does not say; a thread counts them."""
        self.title, self.unit, self.done, self.total, self.rows = title, unit, done, total, 0
        stream = progress_stream()
        self.bar = tqdm(
            None, title, total or None, unit=unit, initial=done, file=stream, leave=False, disable=not stream.isatty()
        )
        self.started = self.told = time.monotonic()
        self.ended = Event()
        if not total:
            Thread(target=self.count, args=(items,), daemon=True).start()

    def advance(self, rows: int) -> None:
        self.rows += rows
        self.bar.total = self.total or None
        self.bar.update(rows)
        if self.bar.disable and time.monotonic() - self.told >= SECONDS_PER_LINE:
            self.told = time.monotonic()
            made, rate = self.done + self.rows, self.rows / (self.told - self.started)
            of = f"/{self.total}" if self.total else ""
            left = f"  {tqdm.format_interval(max(self.total - made, 0) / rate)} left" if self.total and rate else ""
            say(f"{self.title}  {made}{of} {self.unit}  {rate:.0f} {self.unit}/s{left}")

    def count(self, items: Iterable[object]) -> None:
        """Counts the total; errors are left to the caller that makes the rows."""
        if self.ended.wait(SECONDS_BEFORE_COUNTING):
            return
        with suppress(MlflowResnetError):
            found = sum(1 for _ in takewhile(lambda _: not self.ended.is_set(), items))
            if not self.ended.is_set():
                self.total = found

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.bar.close()
