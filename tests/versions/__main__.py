"""Plays the steps in every environment and behind every door, and prints the tables of docs/versions.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import permutations
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from versions.doors import AZUREML, DATABASE, FOLDER, SERVER, UNITY_CATALOG, Door, play_steps  # noqa: E402
from versions.environments import KNOWN, build, describe  # noqa: E402
from versions.steps import STEPS  # noqa: E402

Found = dict[str, str]  # step -> what was wrong, or empty
COLUMNS = (*STEPS, "measure")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(KNOWN), help=f"of {', '.join(KNOWN)}; default: all")
    parser.add_argument("--database-only", action="store_true", help="without other doors")
    parser.add_argument("--environments", type=Path, help="folder of environments, to be kept for another time")
    asked = parser.parse_args()
    names = asked.names
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pythons = {name: build(KNOWN[name], (asked.environments or folder) / name) for name in names}
        print("\n".join(format_row(name, describe(python).values()) for name, python in pythons.items()), flush=True)
        combinations = [each for each in combine(names) if each[1] is DATABASE or not asked.database_only]
        rows = [play(folder, pythons, *combination) for combination in combinations]
        loads = load_from_each_other(folder, pythons)
    print(
        format_row("client", ("server or store", *COLUMNS)), format_row("---", ["---"] * (len(COLUMNS) + 1)), sep="\n"
    )
    print(*(format_row(name, (where, *cells(found))) for name, where, found in rows), sep="\n")
    print(format_row("loads a model of", names), format_row("---", ["---"] * len(names)), sep="\n")
    print(*(format_row(name, (loads.get((name, other), "") for other in names)) for name in names), sep="\n")
    problems = [found for _, _, found in rows if any(found.values())]
    sys.exit(bool(problems) or any(cell != "yes" for cell in loads.values()))


def combine(names: list[str]) -> list[tuple[str, Door, str]]:
    """Client, door and server: each with a database; the first and the last with all doors and with one another."""
    ends = list(dict.fromkeys([names[0], names[-1]]))
    found = [(name, DATABASE, name) for name in names]
    found += [(name, FOLDER, name) for name in names if KNOWN[name].takes_folders]
    found += [(name, door, name) for door in (SERVER, AZUREML, UNITY_CATALOG) for name in ends]
    return found + [(client, SERVER, side) for client, side in permutations(ends, 2)]


def play(folder: Path, pythons: dict[str, Path], name: str, door: Door, side: str) -> tuple[str, str, Found]:
    where = door.title if side == name else f"{door.title}, {side}"
    place = folder / f"{name} {door.title} {side}".replace("/", "").replace(" ", "-")
    row = (name, where, play_steps(pythons[name], place, door, pythons[side]))
    print(row, file=sys.stderr, flush=True)
    return row


def load_from_each_other(folder: Path, pythons: dict[str, Path]) -> dict[tuple[str, str], str]:
    """Which environment loads the model that which other one saved with a database."""
    loads = {}
    for name, other in permutations(pythons, 2):
        place, model = (folder / f"{each}-{DATABASE.title}-{each}" for each in (name, other))
        found = play_steps(pythons[name], place, DATABASE, other_model=model / "model", only=["load_other"])
        loads[name, other] = next(iter(found.values())) or "yes"
    return loads


def cells(found: Found) -> list[str]:
    return ["yes" if found.get(step) == "" else found.get(step, "-")[:80] for step in COLUMNS]


def format_row(name: str, texts: object) -> str:
    return f"| {' | '.join([name, *texts])} |"


if __name__ == "__main__":
    main()
