"""Long runs by hand: python -m tests.gate.checker --steps 20000 --database postgresql."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from mlflow import MlflowClient  # noqa: E402

from checker.judge import HoleError  # noqa: E402
from checker.run import search  # noqa: E402
from checker.server import site  # noqa: E402

parser = argparse.ArgumentParser(prog="python -m tests.gate.checker", description=__doc__)
parser.add_argument("--steps", type=int, default=20000)
parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
parser.add_argument("--seed", type=int, default=random.randrange(10**6))
asked = parser.parse_args()
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    MlflowClient(f"sqlite:///{folder}/empty.db").search_experiments()
    with site(asked.database, folder, folder / "empty.db") as found:
        try:
            search(found, asked.seed, asked.steps)
        except HoleError as error:
            sys.exit(str(error))
