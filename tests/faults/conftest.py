"""Places to train in, and the table of what happened there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Place, Row, place_in
from helpers import unchanged, write_class_folders

ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[[str, str], Row]:
    """Opens a row of the table, or finds it again."""
    rows = request.config.stash.setdefault(ROWS, [])

    def find(fault: str, promised: str) -> Row:
        found = next((each for each in rows if each.fault == fault), None)
        if not found:
            found = Row(fault, promised)
            rows.append(found)
        return found

    return find


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("faults")
    table = [("fault", "times", "promised", "happened")]
    table += [(each.fault, str(len(each.happened)), each.promised, each.summary()) for each in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


@pytest.fixture(scope="session")
def fault_images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("pictures")
    write_class_folders(root / "train", 16)
    write_class_folders(root / "val", 4, first_seed=100)
    with unchanged(root):
        yield root


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of torch threads everywhere, and the tracking database of the working directory."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which mlflow.set_tracking_uri leaves behind, too


@pytest.fixture
def new_place(tmp_path: Path, empty_database: Path, fault_images: Path) -> Callable[..., Place]:
    """Makes working directories."""
    return lambda name, **changes: place_in(tmp_path / name, empty_database, fault_images, **changes)


@pytest.fixture(scope="session")
def unhurt_place(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, fault_images: Path
) -> Callable[..., Place]:
    """The place of a training that came to its end with the given options, trained once in the session."""
    places: dict[str, Place] = {}

    def find(**changes: object) -> Place:
        key = str(changes)
        if key not in places:
            path = tmp_path_factory.mktemp("unhurt") / "place"
            places[key] = place_in(path, empty_database, fault_images, **changes)
            done = places[key].run()
            assert done.returncode == 0, done.stderr
        return places[key]

    return find
