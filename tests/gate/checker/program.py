"""Programs: rounds of steps that several users play at the same time.

A program is a value. Hypothesis draws and shrinks it, what failed is printed as Python, and found.py keeps it. It is no
RuleBasedStateMachine, because a race that is lost must be run again as a whole, which those cannot.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

from hypothesis import strategies as st

import checker.tracking  # noqa: F401 - more actions
from checker.actions import ACTIONS, BIRTH_TAGS, MODEL_TAGS, VERSION_TAGS, WEIGHTS
from checker.measuring import LIES, TAGS
from checker.rules import DATA, KINDS, OTHER_DATA
from checker.world import ACCURACY, USERS, Site, World

STEPS_AT_ONCE = 5
POOL = ThreadPoolExecutor(STEPS_AT_ONCE)
ALIASES = ("champion", "champion", "champion", "champion", "champion", "Champion", "challenger")
STARTS = ("nothing", "prompt", "empty", "registered", "promoted", "promoted", "promoted twice")
RELOADED = 1.3  # seconds after which every worker has read a changed policy

MILLISECONDS = st.sampled_from([20, 60, 150])
TABLES = (
    "registered_models",
    "model_versions",
    "registered_model_tags",
    "model_version_tags",
    "registered_model_aliases",
)
WORDS = (
    "FROM logged_models",
    "FROM model_versions",
    "FROM registered_models",
    "FROM registered_model_aliases",
    *(f"{verb} {table}" for table in TABLES for verb in ("UPDATE", "INSERT INTO")),
)

ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "version": st.integers(1, 3),
    "other_version": st.integers(1, 3),
    "alias": st.sampled_from(ALIASES),
    "quality": st.integers(0, len(ACCURACY) - 1),
    "birth": st.sampled_from(["none", *BIRTH_TAGS]),
    "model_tag": st.integers(0, len(MODEL_TAGS) - 1),
    "version_tag": st.integers(0, len(VERSION_TAGS) - 1),
    "source": st.integers(0, 6),
    "data": st.sampled_from([DATA, DATA, DATA, OTHER_DATA]),
    "lie": st.sampled_from(LIES),
    "form": st.sampled_from(sorted(TAGS)),
    "number": st.sampled_from([*ACCURACY, 0.99]),
    "status": st.sampled_from(["LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED"]),
    "file": st.sampled_from(["MLmodel", "data/classifier.json", "data/model.safetensors"]),
}


@dataclass(frozen=True)
class Step:
    """What one user does in a round.

    Attributes:
        after: milliseconds after the round's begin.
        wait: which of its SQL statements waits, for how many milliseconds; see people.py.
    """

    who: str
    action: str
    given: dict[str, Any]
    after: int = 0
    wait: str = ""


@dataclass(frozen=True)
class Program:
    """Attributes:
    starts: the models, by kind, and what an honest user made of each of them first.
    strict: before which round the rules that are only tried are enforced; -1 for never.
    """

    starts: dict[str, str]
    rounds: list[list[Step]]
    strict: int = -1

    @property
    def steps(self) -> int:
        return sum(map(len, self.rounds))


def step_of(kinds: list[str]) -> st.SearchStrategy[Step]:
    """Steps about models of some kinds."""
    names = st.sampled_from([*kinds, *kinds, *kinds, *(kind.upper() for kind in kinds)])
    arguments = ARGUMENTS | {"name": names, "other": names}

    def given(action: str) -> st.SearchStrategy[dict[str, Any]]:
        wanted = [name for name in inspect.signature(ACTIONS[action]).parameters if name in arguments]
        return st.fixed_dictionaries({name: arguments[name] for name in wanted})

    def step(action: str) -> st.SearchStrategy[Step]:
        after = st.sampled_from([0, 0, 0, 5, 10, 20, 40])
        waits = st.one_of(
            st.just(""), st.builds("{}:{}:{}".format, st.integers(1, 2), st.sampled_from(WORDS), MILLISECONDS)
        )
        return st.builds(Step, st.sampled_from(USERS), st.just(action), given(action), after, waits)

    weighted = [action for action, weight in WEIGHTS.items() for _ in range(weight)]
    return st.sampled_from(weighted).flatmap(step)


@st.composite
def programs(draw: Callable[..., Any]) -> Program:
    kinds = draw(st.lists(st.sampled_from(["free", "free", *KINDS]), min_size=1, max_size=3, unique=True))
    starts = {kind: draw(st.sampled_from(STARTS)) for kind in kinds}
    rounds = draw(st.lists(st.lists(step_of(kinds), max_size=STEPS_AT_ONCE), min_size=6, max_size=16))
    strict = draw(st.integers(0, len(rounds))) if "tried" in kinds and draw(st.booleans()) else -1
    return Program(starts, rounds, strict)


def start(world: World, kind: str, how: str) -> None:
    """What an honest user does alone, before the others come."""
    name = world.name(kind)
    run, owner = ACTIONS, "cat"
    if how != "nothing":
        run["create_model"](world, owner, name, "prompt" if how == "prompt" else "none")
    versions = {"registered": 2, "promoted": 2, "promoted twice": 3}.get(how, 0)
    for quality in range(versions):
        run["register"](world, owner, name, quality=1 - quality % 2, birth="none")
    for version in range(1, versions) if how.startswith("promoted") else ():
        if kind == "free":
            run["set_alias"](world, owner, name, version, "champion")
        else:
            run["promote"](world, owner, name, version, "champion")


def play(program: Program, site: Site, check: Callable[[World], None]) -> World:
    """Plays a program with models of its own, and checks after each round."""
    is_reset = site.is_strict
    site.set_policy(strict=False)
    time.sleep(RELOADED if is_reset else 0)
    site.programs += 1
    world = World(site, site.programs)
    for kind, how in program.starts.items():
        start(world, kind, how)
    check(world)
    for number, steps in enumerate(program.rounds):
        if not steps:
            continue
        if number == program.strict:
            site.set_policy(strict=True)
            time.sleep(RELOADED)
        play_round(world, steps)
        check(world)
    return world


def play_round(world: World, steps: list[Step]) -> None:
    barrier = Barrier(len(steps))

    def run(step: Step) -> None:
        barrier.wait(60)
        time.sleep(step.after / 1000)
        world.waits.header = step.wait
        names = {key: world.name(step.given[key]) for key in ("name", "other") if key in step.given}
        try:
            ACTIONS[step.action](world, step.who, **step.given | names)
        finally:
            world.waits.header = ""

    for done in [POOL.submit(run, step) for step in steps]:
        done.result(300)
