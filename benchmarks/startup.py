"""How long it takes until a command says something, beside `python -c pass`, and a server beside one without the gate.

Seconds of processor time count, of the command and all that it starts: what else the machine does changes them little.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from alternate import Measurement, alternate, print_machine, print_table, ratio, spread, values_of
from gate import GATED, PLAIN, server

NOTHING = "python -c pass"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    "import mlflow_resnet": ["-c", "import mlflow_resnet"],
    "mlflow-resnet --help": ["-m", "mlflow_resnet", "--help"],
    "mlflow-resnet train --help": ["-m", "mlflow_resnet", "train", "--help"],
    "mlflow-resnet score --help": ["-m", "mlflow_resnet", "score", "--help"],
    "an option that there is not": ["-m", "mlflow_resnet", "train", "--learning-rat", "1"],
    "a value that cannot work": ["-m", "mlflow_resnet", "train", "--train-dir", "x", "--epochs", "0"],
    "import mlflow": ["-c", "import mlflow"],
    "import torch": ["-c", "import torch"],
}
SERVERS = {PLAIN: "", GATED: "resnet-gate+"}
PROCESSOR, CLOCK = "processor seconds", "seconds"


def measure(work: Callable[[], object], _: int) -> Measurement:
    """Do something in other processes, and say what that took."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {PROCESSOR: after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, CLOCK: seconds}


def run_python(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], capture_output=True)


def start_server(scheme: str) -> None:
    """Start a server with a new database, and end it as soon as it has answered."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server", scheme):
        pass


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="a smoke run, whose numbers mean nothing")
@click.option("--repetitions", default=5, show_default=True)
def main(quick: bool, repetitions: int) -> None:
    print_machine()
    os.environ["TQDM_DISABLE"] = "1"
    jobs = {name: partial(measure, partial(run_python, arguments)) for name, arguments in COMMANDS.items()}
    jobs |= {name: partial(measure, partial(start_server, scheme)) for name, scheme in SERVERS.items()}
    found = alternate(jobs, 1 if quick else repetitions)
    used, clock = ({name: values_of(found[name], what) for name in jobs} for what in (PROCESSOR, CLOCK))
    for title, names, base in (
        ("commands", COMMANDS, NOTHING),
        ("mlflow server, until it has answered", SERVERS, PLAIN),
    ):
        rows = [[name, spread(used[name], 2), spread(clock[name], 2), ratio(used[name], used[base])] for name in names]
        print_table(title, ["", PROCESSOR, CLOCK, f"processor seconds to {base}"], rows)


if __name__ == "__main__":
    main()
