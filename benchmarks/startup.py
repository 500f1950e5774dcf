"""How long it takes until a command says something, beside `python -c pass`, and a server beside one without the gate.

Seconds of processor time count, of the command and all that it starts: what else the machine does changes them little.
Servers are timed by the clock, from their start to their first answers.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click
from alternate import Job, Measurement, alternate, print_machine, print_table, ratio, spread, values_of
from gate import server

NOTHING, MLFLOW = "python -c pass", "import mlflow"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    "import mlflow_resnet": ["-c", "import mlflow_resnet"],
    "mlflow-resnet --help": ["-m", "mlflow_resnet", "--help"],
    "mlflow-resnet train --help": ["-m", "mlflow_resnet", "train", "--help"],
    "mlflow-resnet score --help": ["-m", "mlflow_resnet", "score", "--help"],
    "an option that there is not": ["-m", "mlflow_resnet", "train", "--learning-rat", "1"],
    "a value that cannot work": ["-m", "mlflow_resnet", "train", "--train-dir", "x", "--epochs", "0"],
    MLFLOW: ["-c", "import mlflow"],
    "import torch": ["-c", "import torch"],
}
SERVERS = {"plain store": "", "gate store": "resnet-gate+"}
PROCESSOR, CLOCK = "processor seconds", "seconds"


def run_command(arguments: list[str], _: int) -> Measurement:
    """Run Python with these arguments, and say what that took."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {PROCESSOR: used, CLOCK: seconds}


def start_server(scheme: str, _: int) -> Measurement:
    """Start a server with a new database, and say how long that took until it had answered."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server", scheme):
        return {CLOCK: time.perf_counter() - begun}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="a smoke run, whose numbers mean nothing")
@click.option("--repetitions", default=5, show_default=True)
def main(quick: bool, repetitions: int) -> None:
    print_machine()
    os.environ["TQDM_DISABLE"] = "1"
    jobs: dict[str, Job] = {name: partial(run_command, arguments) for name, arguments in COMMANDS.items()}
    jobs |= {name: partial(start_server, scheme) for name, scheme in SERVERS.items()}
    found = alternate(jobs, 1 if quick else repetitions)
    used = {name: values_of(found[name], PROCESSOR) for name in COMMANDS}
    clock = {name: values_of(found[name], CLOCK) for name in jobs}
    rows = [
        [name, spread(used[name], 2), spread(clock[name], 2), ratio(used[name], used[NOTHING])] for name in COMMANDS
    ]
    print_table("until it ends; ratio of processor seconds", ["command", PROCESSOR, CLOCK, "to pass"], rows)
    plain, gated = (clock[name] for name in SERVERS)
    rows = [["mlflow server", spread(plain, 2), spread(gated, 2), ratio(gated, plain)]]
    print_table("seconds until the first answers", ["", *SERVERS, "ratio"], rows)


if __name__ == "__main__":
    main()
