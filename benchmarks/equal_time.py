"""How many epochs fit into a number of minutes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from alternate import Measurement, in_fresh_process
from setting import Setting, fit

LONG = 3  # epochs of the longer of two measured trainings


def planned(contestant: str, setting: Setting, minutes: float) -> Setting:
    """The setting with as many epochs as end within `minutes`, set-up and validation included, but at least one.

    The learning rate's schedule needs the number in advance, so a training cannot simply be stopped when the time is
    over. What the measuring takes is not part of the minutes.
    """
    measured = in_fresh_process(partial(measuring_job, contestant, setting))
    after_the_first = (minutes * 60 - measured["one epoch"]) / measured["another epoch"]
    return replace(setting, epochs=1 + max(0, int(after_the_first)))


def measuring_job(contestant: str, setting: Setting, repetition: int) -> Measurement:
    """Seconds of a training of one epoch, and of each epoch more."""
    one = fit(contestant, replace(setting, epochs=1)).total_seconds
    several = fit(contestant, replace(setting, epochs=LONG)).total_seconds
    return {"one epoch": one, "another epoch": max(several - one, 1e-3) / (LONG - 1)}
