"""Calls a function in several processes on this machine, through what torch.distributed.run itself calls."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from mlflow.exceptions import MlflowException
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mlflow_resnet.errors import MlflowResnetError, ProcessEndedError
from mlflow_resnet.io.console import SIGINT_EXIT_CODE, SIGTERM_EXIT_CODE, is_first
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.process import claim_process

SIGNALS = [name for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]  # not all on Windows
GRACE_SECONDS = 5.0  # that a worker has to end after a signal


def in_processes(count: int, function: Callable[[Any], Any], argument: Any, environment: dict[str, str]) -> Any:
    """Calls `function(argument)` in `count` processes, and returns what the first one returned.

    Args:
        function: of a module, so that the processes can import it.
        environment: variables that the processes have besides those of this one.

    Raises:
        MlflowResnetError: that a process raised.
        ProcessEndedError: if one ended in another way; the others are ended too.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow_resnet-") as folder:
        (Path(folder) / "call").write_bytes(pickle.dumps((function, argument)))
        # Not `-m`: a worker must find the modules that this process has found, wherever they are.
        code = f"import os, sys; sys.path[:] = {sys.path!r}; os.environ.update({environment!r}); "
        code += f"from mlflow_resnet.runs.launch import work; work({folder!r}, {os.getpid()})"
        try:
            with signals_passed_on() as signals, silenced("torch.distributed"):
                elastic_launch(launch_config(count, signals, folder), sys.executable)("-c", code)
        except ChildFailedError as error:
            raise cause_of(error.failures, count, folder) from None
        return outcome_of(0, folder)


def launch_config(count: int, signals: list[str], folder: str) -> LaunchConfig:
    """What `torchrun --standalone` uses, but on the loopback device and without log files that stay."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="mlflow_resnet",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle=",".join(signals),
        logs_specs=DefaultLogsSpecs(log_dir=os.path.join(folder, "logs")),
    )


@contextlib.contextmanager
def signals_passed_on() -> Iterator[list[str]]:
    """Yields the signals that the launcher may handle: those that are not ignored, as SIGHUP is after `nohup`.

    The launcher leaves its own handlers in place. When it has ended the workers, this process handles the signal as
    it would have without them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []  # there are no handlers then
        return
    before = {name: handler for name in SIGNALS if (handler := signal.getsignal(getattr(signal, name))) is not None}
    received = None
    try:
        yield [name for name, handler in before.items() if handler is not signal.SIG_IGN]
    except SignalException as error:
        received = error.sigval
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
    if received:
        signal.raise_signal(received)


@contextlib.contextmanager
def silenced(name: str) -> Iterator[None]:
    """Disables the loggers below `name`: what they have to say of a failure, the error says in one sentence."""
    loggers = [logging.getLogger(each) for each in logging.root.manager.loggerDict if each.startswith(name + ".")]
    loggers = [logger for logger in loggers if not logger.disabled]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


def cause_of(failures: dict[int, ProcessFailure], count: int, folder: str) -> MlflowResnetError:
    """The error that made the others fail: not one about the end of another process, and not our own SIGTERM."""

    def order(rank: int) -> tuple[bool, int]:
        is_effect = isinstance(outcome_of(rank, folder), ProcessEndedError)
        return is_effect or failures[rank].exitcode == SIGTERM_EXIT_CODE, failures[rank].timestamp

    rank = min(failures, key=order)
    outcome, failure = outcome_of(rank, folder), failures[rank]
    if isinstance(outcome, MlflowResnetError):
        return outcome
    code = failure.exitcode
    how = f"was killed by {failure.signal_name()}" if code < 0 else f"ended with exit code {code}"
    return ProcessEndedError(f"process {rank + 1} of {count} (pid {failure.pid})", how)


def outcome_of(rank: int, folder: str) -> Any:
    """What a worker has returned or raised; None if it has not."""
    path = Path(folder) / str(rank)
    return pickle.loads(path.read_bytes()) if path.exists() else None


def work(folder: str, launcher: int) -> None:
    """The life of a worker, whose launcher has the process id `launcher`."""
    end_in_time(launcher)
    claim_process()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(SIGINT_EXIT_CODE))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(default_threads())
    function, argument = pickle.loads((Path(folder) / "call").read_bytes())
    try:
        result = function(argument)
        leave(result if is_first() else None, folder)
    except MlflowException as error:
        known = error if isinstance(error, MlflowResnetError) else MlflowResnetError(error.message)
        leave(known, folder)
        end_at_once(known.exit_code)
    except SystemExit as error:  # a signal
        end_at_once(error.code)


def end_at_once(exit_code: Any) -> NoReturn:
    """Without the cleaning up of Python and torch, in which threads that still talk to other workers could crash."""
    sys.stderr.flush()
    os._exit(exit_code)


def leave(outcome: Any, folder: str) -> None:
    """Leaves for the launcher what this worker has returned or raised."""
    (Path(folder) / os.environ["RANK"]).write_bytes(pickle.dumps(outcome))


def end_in_time(launcher: int) -> None:
    """Has this worker end soon after a signal or after its launcher, also while it waits for a GPU or another worker.

    Python's own handlers run only when such a wait is over.
    """
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())

    def watch() -> None:
        keep = wake  # noqa: F841 - closed when nothing refers to it
        while not select.select([woken], [], [], 1.0)[0]:
            if os.getppid() != launcher:
                os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(128 + woken.recv(1)[0])

    threading.Thread(target=watch, daemon=True).start()
