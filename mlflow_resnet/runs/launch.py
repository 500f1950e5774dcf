"""Calls a function in several processes on this machine, which torchrun starts and watches.

Each of them runs this module too: it calls the function, and leaves in a folder what that returned or raised.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mlflow.exceptions import MlflowException

from mlflow_resnet.errors import MlflowResnetError, ProcessEndedError
from mlflow_resnet.io.console import SIGTERM_EXIT_CODE, is_first
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.process import claim_process
from mlflow_resnet.runs.torchrun import FAILURES

CALL_FILE = "call"
WORKER_SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORKER_GRACE_SECONDS = 5.0  # that a worker has to end after a signal


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
        command += ["--nproc-per-node", str(count), "-m", "mlflow_resnet.runs.launch", str(folder)]
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


def read_outcome(rank: int, folder: Path) -> Any:
    """Reads what a worker has returned or raised; None if it has not."""
    path = folder / str(rank)
    return pickle.loads(path.read_bytes()) if path.exists() else None


def run_worker() -> None:
    """Calls the function that is in the folder which the argument names."""
    folder = Path(sys.argv[1])
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    threading.Thread(target=end_in_time, args=(woken, wake), daemon=True).start()
    claim_process()
    for number in WORKER_SIGNALS:
        signal.signal(number, exit_once)
    function, argument = pickle.loads((folder / CALL_FILE).read_bytes())
    outcome = folder / os.environ["RANK"]
    try:
        result = function(argument)
        outcome.write_bytes(pickle.dumps(result if is_first() else None))
    except MlflowException as error:
        known = error if isinstance(error, MlflowResnetError) else MlflowResnetError(error.message)
        outcome.write_bytes(pickle.dumps(known))
        end_at_once(known.exit_code)
    except SystemExit as error:  # a signal
        end_at_once(error.code)


def exit_once(number: int, frame: FrameType | None) -> NoReturn:
    """Handles the first signal. torchrun sends another when the first worker has ended, while this one still saves."""
    for each in WORKER_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def end_in_time(woken: socket.socket, wake: socket.socket) -> None:
    """Ends this process soon after a signal or the end of its launcher, though it waits for a GPU or a worker.

    Python's own handlers run only when such a wait is over. A byte arrives at `woken` for each signal, as long as
    `wake` is open.
    """
    launcher = sys.stdin.fileno()
    if launcher in select.select([woken, launcher], [], [])[0]:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(WORKER_GRACE_SECONDS)
    os._exit(128 + woken.recv(1)[0])


def end_at_once(exit_code: Any) -> NoReturn:
    """Exits without cleanup, during which threads that talk to other workers could crash."""
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    run_worker()
