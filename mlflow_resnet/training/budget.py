"""A time budget."""

from __future__ import annotations

from time import perf_counter


class Budget:
    """Seconds from now on; infinite if there is no budget."""

    def __init__(self, seconds: float) -> None:
        self._end = perf_counter() + seconds

    def left(self) -> float:
        return self._end - perf_counter()
