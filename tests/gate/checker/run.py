"""Plays drawn programs until enough steps are played or a hole is found, which is then made small."""

from __future__ import annotations

import contextlib
import math
import pprint
import time
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky

from checker.judge import HoleError, check
from checker.program import Program, play, programs
from checker.world import Site, World

TRIES = 6  # of a smaller program, because a race that was lost once may be won the next time
AT_ONCE = 9  # programs of one seed: of 10 and more, Hypothesis makes the first ones small
SHRINKING = 90  # seconds for which a program that found a hole is made smaller


class Enough(BaseException):
    """As much was played as was wanted; no Exception, which Hypothesis would make smaller."""


@dataclass
class Told:
    """What was played."""

    steps: int = 0
    programs: int = 0
    moves: Counter[int] = field(default_factory=Counter)

    def add(self, program: Program, world: World) -> None:
        moves = [each for each in world.answers if (each.method, each.path) == ("POST", "registered-models/alias")]
        self.steps += program.steps
        self.programs += 1
        self.moves.update(each.status for each in moves)

    def __str__(self) -> str:
        moves = ", ".join(f"{count} x {status}" for status, count in sorted(self.moves.items()))
        return f"{self.steps} steps in {self.programs} programs; of the moves of aliases {moves}"


def search(site: Site, number: int, steps: int) -> Told:
    """Draws programs from a seed and those that follow it, and plays them.

    Raises:
        HoleError: with the smallest program that shows it, as Python, and the seed.
    """
    told = Told()
    while told.steps < steps:
        play_some(site, number, steps, told)
        print(f"seed {number}: {told}", flush=True)
        number += 1
    return told


def play_some(site: Site, number: int, steps: int, told: Told) -> None:
    """Plays the programs of one seed, and adds to what is told."""
    found: list[tuple[Program, str, int]] = []
    broken: list[Exception] = []
    deadline = math.inf

    @seed(number)
    @settings(
        max_examples=AT_ONCE,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(programs())
    def any_program(program: Program) -> None:
        nonlocal deadline
        if time.monotonic() > deadline or (told.steps >= steps and not found):
            raise Enough
        if not program.steps:
            return
        try:
            for _ in range(TRIES if found else 1):
                told.add(program, play(program, site, check))
        except HoleError as error:
            if not found:
                print(f"a hole after {told.steps} steps; making the program smaller\n{error}", flush=True)
            deadline = min(deadline, time.monotonic() + SHRINKING)
            found.append((program, str(error), told.steps))
            raise
        except Exception as error:  # of the checker itself: nothing to be made smaller
            broken.append(error)
            raise Enough from None

    with contextlib.suppress(Enough, HoleError, Flaky):
        any_program()
    if broken:
        raise broken[0]
    if found:
        raise HoleError(describe(number, found))


def describe(number: int, found: list[tuple[Program, str, int]]) -> str:
    program, problem, _ = min(found, key=lambda each: (each[0].steps, len(each[0].starts), len(repr(each[0]))))
    text = pprint.pformat(program, width=116)
    return f"seed {number}, after {found[0][2]} steps:\n{problem}\nKeep this in found.py:\n{text}"
