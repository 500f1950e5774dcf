"""The learning rate at a step."""

from __future__ import annotations

FINAL_LEARNING_RATE = 1e-7
POWER = 2


def learning_rate_at(step: int, steps: int, warmup_steps: int, highest: float) -> float:
    """Linear rise to `highest` over `warmup_steps`, then polynomial decay of power 2 to 1e-7, as in the designer.

    The designer changes it once an epoch; here every step, so that short runs decay smoothly too.

    Args:
        step: 0 for the first step.
        steps: steps of the whole run, warm-up included.
        warmup_steps: from 0 to `steps`.
    """
    if step < warmup_steps:
        return highest * (step + 1) / (warmup_steps + 1)
    remaining = (steps - step) / max(steps - warmup_steps, 1)
    return FINAL_LEARNING_RATE + (highest - FINAL_LEARNING_RATE) * remaining**POWER
