"""A time budget."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter


class Budget:
    """Seconds from now on; infinite if there is no budget."""

    def __init__(self, seconds: float) -> None:
        self._end = perf_counter() + seconds

    def seconds_left(self) -> float:
        return self._end - perf_counter()

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds_left()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._end = perf_counter() + state["seconds"]
