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


@dataclass
class Told:
    """What was played."""

    steps: int = 0
    programs: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    def add(self, program: Program, world: World) -> None:
        self.steps += program.steps
        self.programs += 1
        self.answers.update(moves_of(world))

    def __str__(self) -> str:
        moves = ", ".join(f"{count} x {what}" for what, count in sorted(self.answers.items()))
        return f"{self.steps} steps in {self.programs} programs; of the moves of aliases {moves}"


class Enough(Exception):
    """As many steps as were wanted are played."""


def search(site: Site, number: int, steps: int, shrinking: float = 60) -> Told:
    """Draws programs from a seed, and plays them.

    Args:
        shrinking: seconds for which a program that found a hole is made smaller.

    Raises:
        HoleError: with the smallest program that shows it, as Python, and the seed.
    """
    told, found, deadline = Told(), [], math.inf

    @seed(number)
    @settings(
        max_examples=10**6,
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
        try:
            for _ in range(TRIES if found else 1):
                told.add(program, play(program, site, check))
        except HoleError as error:
            if not found:
                print(f"a hole after {told.steps} steps; making the program smaller", flush=True)
            deadline = min(deadline, time.monotonic() + shrinking)
            found.append((program, str(error), told.steps))
            raise

    with contextlib.suppress(Enough, HoleError, Flaky):
        any_program()
    if found:
        raise HoleError(describe(number, *found))
    return told


def describe(number: int, *found: tuple[Program, str, int]) -> str:
    program, problem, _ = min(found, key=lambda each: (each[0].steps, len(each[0].starts), len(repr(each[0]))))
    text = pprint.pformat(program, width=116)
    return f"seed {number}, after {found[0][2]} steps:\n{problem}\nKeep this in found.py:\n{text}"


def moves_of(world: World) -> list[str]:
    """The status of each move of an alias."""
    return [
        str(each.status) for each in world.answers if (each.method, each.path) == ("POST", "registered-models/alias")
    ]
