"""Calls a function in several processes on this machine, which torchrun starts and watches."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import MlflowResnetError, ProcessEndedError
from mlflow_resnet.io.console import SIGTERM_EXIT_CODE
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.runs.torchrun import FAILURES
from mlflow_resnet.runs.worker import CALL_FILE, read_outcome


def in_processes(count: int, function: Callable[[Any], Any], argument: Any, environment: dict[str, str]) -> Any:
    """Calls `function(argument)` in `count` processes, and returns what the first one returned.

    They find the modules that this process finds, and share its cores unless OMP_NUM_THREADS says otherwise. They end
    when this one does, however it ends: torchrun's input is a pipe from it. It is on the loopback device, in a session
    of its own, so that it gets a terminal's Ctrl-C from this process.

    Args:
        function: of a module, so that the processes can import it.
        environment: variables that the processes have besides those of this one.

    Raises:
        MlflowResnetError: that a process raised.
        ProcessEndedError: if one ended in another way; the others are ended too.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow_resnet-") as name:
        folder = Path(name)
        (folder / CALL_FILE).write_bytes(pickle.dumps((function, argument)))
        command = [sys.executable, "-m", "mlflow_resnet.runs.torchrun", str(folder)]
        command += ["--standalone", "--local-addr", "localhost", "--log-dir", str(folder / "logs")]
        command += ["--nproc-per-node", str(count), "-m", "mlflow_resnet.runs.worker", str(folder)]
        variables = {"OMP_NUM_THREADS": str(default_threads(count))} | os.environ | environment
        variables |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=variables, start_new_session=True) as torchrun:
            try:
                torchrun.wait()
            except BaseException as error:  # of a signal's handler
                torchrun.send_signal(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
                torchrun.wait()
                raise
        if torchrun.returncode:
            raise find_cause(count, folder, torchrun.returncode)
        return read_outcome(0, folder)


def find_cause(count: int, folder: Path, exit_code: int) -> MlflowResnetError:
    """Finds the error that made the others fail: not one about another process, and not torchrun's SIGTERM."""
    if not (folder / FAILURES).exists():
        return ProcessEndedError("torchrun", f"ended with exit code {exit_code}")
    failures = json.loads((folder / FAILURES).read_text())
    outcomes = {failure["rank"]: read_outcome(failure["rank"], folder) for failure in failures}

    def order(failure: dict[str, Any]) -> tuple[bool, int]:
        is_effect = isinstance(outcomes[failure["rank"]], ProcessEndedError)
        return is_effect or failure["exit_code"] == SIGTERM_EXIT_CODE, failure["timestamp"]

    first = min(failures, key=order)
    outcome, code = outcomes[first["rank"]], first["exit_code"]
    if isinstance(outcome, MlflowResnetError):
        return outcome
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ProcessEndedError(f"process {first['rank'] + 1} of {count} (pid {first['pid']})", how)
