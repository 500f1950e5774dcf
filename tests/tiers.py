"""Hooks of tests/conftest.py: the tier `unit`, and what was left out for want of something.

A unit test starts no process and no server and trains nothing. Those of the files in UNIT are, but for `slow` ones,
those that say `@pytest.mark.process`, and those with a fixture of LIVE; one that does start something fails.
"""

import functools
import sys
from collections import Counter
from pathlib import Path

import pytest

UNIT = (
    "images",
    "gate/test_decision.py",
    "gate/test_evidence.py",
    "gate/test_names.py",
    "gate/test_policy.py",
    "serving/test_admission.py",
    "test_audit.py",
    "test_augmentation.py",
    "test_calibration.py",
    "test_compare.py",
    "test_evaluate.py",
    "test_find_lr.py",
    "test_layers.py",
    "test_mixing.py",
    "test_options.py",
    "test_papers.py",
    "test_preprocessing.py",
    "test_progress.py",
    "test_recipes.py",
    "test_regions.py",
    "test_schedule_and_network.py",
    "test_training_settings.py",
)
NOT_UNIT = {"slow", "faults", "thorough", "process"}
LIVE = {"tracking", "workdir", "empty_database", "s3", "gate", "images"}  # who asks for images trains with them
STARTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "socket.bind"}  # events of sys.addaudithook
LOOKUPS = {"/sbin/ldconfig", "uname"}  # ctypes asks where a library is, and platform what CPU this is, at an import
HERE = Path(__file__).parent
NEEDS = "needs "
running: set[str] = set()  # the unit test, if one is


def holds_unit_tests(path: Path) -> bool:
    """Whether a file has some, or a folder such files."""
    place = path.relative_to(HERE).as_posix()
    above = "" if place == "." else f"{place}/"
    return any(place == name or name.startswith(above) or place.startswith(f"{name}/") for name in UNIT)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Nothing else is imported for `-m unit`."""
    is_test = collection_path.is_relative_to(HERE)
    return True if config.option.markexpr == "unit" and is_test and not holds_unit_tests(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if holds_unit_tests(item.path) and not marks & NOT_UNIT and not LIVE & set(item.fixturenames):
            item.add_marker(pytest.mark.unit)


def refuse(event: str, arguments: tuple) -> None:
    if event in STARTS and running and arguments[0] not in LOOKUPS:
        raise RuntimeError(f"a unit test may not cause {event}: mark it with pytest.mark.process")


def refuse_training(*arguments: object) -> None:
    if running:
        raise RuntimeError("a unit test may not train: mark it with pytest.mark.process")


sys.addaudithook(refuse)


@functools.cache
def watch_training() -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(refuse_training)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    if item.get_closest_marker("unit"):
        running.add(item.nodeid)
    if "torch" in sys.modules:
        watch_training()
    try:
        return (yield)
    finally:
        running.clear()


def needs(what: str, install: str) -> str:
    """Why a test is skipped where something is not installed or not allowed; told at the end of a run."""
    return f"{NEEDS}{what}: {install}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])]
    counts = Counter(reason.removeprefix(NEEDS) for reason in reasons if reason.startswith(NEEDS))
    if counts:
        terminalreporter.section("left out for want of something")
    for reason, count in counts.most_common():
        terminalreporter.write_line(f"{count} {'test needs' if count == 1 else 'tests need'} {reason}")
