"""A memory budget for concurrent work: what would exceed it waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition


class Room:
    """Room for `total()` bytes, which is asked for once, when the first takes some."""

    def __init__(self, total: Callable[[], int]) -> None:
        self._find_total, self._total, self._taken = total, 0, 0
        self._changed = Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Takes `size` bytes while the block runs; one that alone is over the total gets all of it.

        A thread that holds some must not ask for more.
        """
        with self._changed:
            self._total = self._total or max(1, self._find_total())
            size = min(size, self._total)
            self._changed.wait_for(lambda: self._taken + size <= self._total)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
