"""An epoch that is under way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from torch import Tensor

from mlflow_resnet.training import processes

T = TypeVar("T")

MAX_RATES = 50  # that an epoch keeps

Rate = tuple[int, float, int]  # steps done, learning rate of the last of them, milliseconds since 1970


@dataclass
class EpochSoFar:
    """The part of an epoch that is done.

    Attributes:
        sums: of the loss and the hits over images, of shape (2,).
        seconds: that it took; `data_seconds` of them waiting for batches.
        rates: of some steps, evenly spaced, and of the last one.
        metrics: of the whole, once it is done; empty before.
    """

    sums: Tensor
    iterations: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    rates: list[Rate] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return self.rates[-1][1] if self.rates else 0.0

    def state_dict(self) -> dict[str, Any]:
        """All processes call it together, unless the epoch is done: the sums are those of all of them."""
        return vars(self) | {"sums": self.sums if self.metrics else processes.sum_values(self.sums.clone())}

    def time_batches(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the batches and counts the time spent waiting for them."""
        while True:
            began = perf_counter()
            batch = next(batches, None)
            self.data_seconds += perf_counter() - began
            if batch is None:
                return
            yield batch

    def add(self, sums: Tensor, rate: float, iterations: int) -> None:
        """Counts a step at a learning rate, of the `iterations` that the whole epoch has."""
        self.sums += sums
        self.iterations += 1
        spacing = math.ceil(iterations / (MAX_RATES - 1))
        if self.rates and (self.rates[-1][0] - 1) % spacing:
            self.rates.pop()  # it was kept only because it was the last
        self.rates.append((self.iterations, rate, int(time.time() * 1000)))
