"""Progress of training: a bar on a terminal, a line every `print_frequency` iterations elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TextIO

from tqdm import tqdm


@dataclass
class TrainingProgress:
    """Shows epochs and iterations as the loop reports them.

    Args:
        print_frequency: iterations between lines, and between updates of the numbers beside the bar.
    """

    epochs: int
    print_frequency: int = 10
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def start_epoch(self, epoch: int, iterations: int, done: int = 0) -> None:
        self._epoch, self._iterations = epoch, iterations
        title, is_log = f"epoch {epoch}/{self.epochs}", not self.stream.isatty()
        self._bar = tqdm(
            total=iterations, initial=done, desc=title, file=self.stream, unit="it", leave=False, disable=is_log
        )

    def is_due(self, iteration: int) -> bool:
        """Whether the numbers of this iteration are wanted; reading them from a GPU costs a wait."""
        return iteration % self.print_frequency == 0 or iteration == self._iterations

    def advance(self) -> None:
        self._bar.update()

    def show(self, iteration: int, loss: float, speed: float) -> None:
        """`speed` in images per second."""
        if self._bar.disable:
            line = f"epoch {self._epoch}/{self.epochs}  iteration {iteration}/{self._iterations}"
            print(f"{line}  loss {loss:.4f}  {speed:.0f} images/s", file=self.stream, flush=True)
        else:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")

    def close(self) -> None:
        """Takes the bar away, also when an epoch ends with an error."""
        self._bar.close()

    def end_epoch(self, summary: str) -> None:
        self.close()
        print(f"epoch {self._epoch}/{self.epochs}  {summary}", file=self.stream, flush=True)
