"""Plays the steps in every environment and across versions, and prints the table of docs/versions.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from versions.doors import mlflow_server, run_steps  # noqa: E402
from versions.environments import KNOWN, build, describe  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(KNOWN), help=f"of {', '.join(KNOWN)}; default: all")
    names = parser.parse_args().names
    rows: list[tuple[str, dict[str, str]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pythons = {name: build(KNOWN[name], folder / name) for name in names}
        for number, (name, python) in enumerate(pythons.items()):
            other = folder / f"run-{names[number - 1]}" / "model" if number else None
            rows.append((describe(python), run_steps(python, folder / f"run-{name}", other_model=other)))
            print(rows[-1], flush=True)
        first, last = pythons[names[0]], pythons[names[-1]]
        for client, side in ((first, last), (last, first)) if len(names) > 1 else ():
            place = folder / f"server-{client.parent.parent.name}"
            with mlflow_server(side, place) as url:
                found = run_steps(client, folder / f"across-{client.parent.parent.name}", url)
            rows.append((f"{describe(client)} against a server of {describe(side)}", found))
    print(format_table(rows))
    sys.exit(any(problem for _, found in rows for problem in found.values()))


def format_table(rows: list[tuple[str, dict[str, str]]]) -> str:
    """Markdown: a row for each environment, a column for each step."""
    steps = list(dict.fromkeys(step for _, found in rows for step in found))
    lines = [["", *steps], ["---"] * (len(steps) + 1)]
    for name, found in rows:
        lines.append([name, *("yes" if found.get(step) == "" else found.get(step, "-")[:80] for step in steps)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
