"""One of several processes that torchrun started: calls a function, and leaves what it returned or raised."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mlflow.exceptions import MlflowException

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.io.console import is_first
from mlflow_resnet.io.process import claim_process

CALL_FILE = "call"
WORKER_SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORKER_GRACE_SECONDS = 5.0  # that a worker has to end after a signal


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


def read_outcome(rank: int, folder: Path) -> Any:
    """Reads what a worker has returned or raised; None if it has not."""
    path = folder / str(rank)
    return pickle.loads(path.read_bytes()) if path.exists() else None


if __name__ == "__main__":
    run_worker()
