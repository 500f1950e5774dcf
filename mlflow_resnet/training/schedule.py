"""The learning rate at a step: a linear rise, then a fall that ends with the training."""

from __future__ import annotations

import math

FINAL_LEARNING_RATE = 1e-7  # of the polynomial, as in the designer
MAX_WARMUP_OF_BUDGET = 0.2

FALLS = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "polynomial": lambda progress: (1 - progress) ** 2,
    "step": lambda progress: 0.1 ** int(3 * progress),
    "constant": lambda progress: 1.0,
}


class Schedule:
    """Progress of a training from 0 to 1, and the learning rate there.

    The end is after `steps` or after `seconds`, whichever comes first, so that a time budget ends at the low rates of
    the fall and not in the middle. Without a budget the rate depends on the step alone.

    Args:
        name: cosine, polynomial (power 2 to 1e-7, the designer's), step (a tenth after each third) or constant.
        warmup_steps: of a linear rise, from 0 to `steps`; in a budget it takes a fifth of the time at most.
        seconds: the time budget; infinite if there is none.
    """

    def __init__(self, name: str, highest: float, steps: int, warmup_steps: int, seconds: float = math.inf) -> None:
        self.name, self.highest = name, highest
        self.steps, self.warmup_steps, self.seconds = steps, warmup_steps, max(seconds, 1e-9)
        self.fall_from: float | None = None

    def progress(self, step: int, elapsed: float = 0.0) -> float:
        """Fraction of the training that is done before `step` (0 for the first), `elapsed` seconds after its start."""
        return min(max(step / self.steps, elapsed / self.seconds), 1.0)

    def rate(self, step: int, elapsed: float = 0.0) -> float:
        """The learning rate of `step`. Ask in the order of the steps."""
        progress = self.progress(step, elapsed)
        if step < self.warmup_steps and elapsed / self.seconds < MAX_WARMUP_OF_BUDGET:
            return self.highest * (step + 1) / (self.warmup_steps + 1)
        if self.fall_from is None:
            self.fall_from = progress
        fall = FALLS[self.name]((progress - self.fall_from) / max(1 - self.fall_from, 1e-9))
        lowest = FINAL_LEARNING_RATE if self.name == "polynomial" else 0.0
        return lowest + (self.highest - lowest) * fall
