"""Plays drawn programs until enough steps are played or a hole is found, which is then made small."""

from __future__ import annotations

import pprint
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings

from checker.judge import HoleError, check
from checker.program import Program, play, programs
from checker.world import Site

TRIES = 12  # of a smaller program, because a race that was lost once may be won the next time


@dataclass
class Told:
    """What was played."""

    steps: int = 0
    programs: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        moves = ", ".join(f"{count} x {what}" for what, count in sorted(self.answers.items()))
        return f"{self.steps} steps in {self.programs} programs; of the moves of aliases {moves}"


class Enough(Exception):
    """As many steps as were wanted are played."""


def search(site: Site, number: int, steps: int) -> Told:
    """Draws programs from a seed, and plays them.

    Raises:
        HoleError: with the smallest program that shows it, as Python, and the seed.
    """
    told, found = Told(), []

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
        if told.steps >= steps and not found:
            raise Enough
        for _ in range(TRIES if found else 1):
            try:
                world = play(program, site, check)
            except HoleError as error:
                found.append((program, str(error)))
                raise
            told.steps += program.steps
            told.programs += 1
            told.answers.update(moves_of(world))

    try:
        any_program()
    except Enough:
        pass
    except BaseException as error:
        if not found:
            raise
        raise HoleError(describe(number, told, *smallest(found))) from error
    return told


def smallest(found: list[tuple[Program, str]]) -> tuple[Program, str]:
    return min(found, key=lambda each: (each[0].steps, len(each[0].starts), len(repr(each[0]))))


def describe(number: int, told: Told, program: Program, problem: str) -> str:
    return f"seed {number}, after {told}:\n{problem}\nKeep this in found.py:\n{pprint.pformat(program, width=116)}"


def moves_of(world) -> list[str]:
    """The status of each move of an alias."""
    return [
        str(each.status) for each in world.answers if (each.method, each.path) == ("POST", "registered-models/alias")
    ]
