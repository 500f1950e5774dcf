"""Signals that end a training, postponed until it is saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mlflow_resnet.io.console import SIGTERM_EXIT_CODE
from mlflow_resnet.io.process import is_own_process

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_PATIENCE_SECONDS = 8.0  # that a step may take after a signal; then it is broken off, and nothing is saved of it


class Stop:
    """Keeps a signal that asks the training to end, until `obey` or the end of `postpone` calls its earlier handler.

    The second signal, and the first after STOP_PATIENCE_SECONDS, are obeyed at once.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.is_agreed = False
        self.handlers: dict[int, Any] = {}

    @contextmanager
    def postpone(self) -> Iterator[None]:
        """Only in the main thread of a process of ours. In a caller's, Ctrl-C is a KeyboardInterrupt at once."""
        if not is_own_process() or threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {number: signal.getsignal(number) for number in SIGNALS}
        self.handlers = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}
        for number in self.handlers:
            signal.signal(number, self.note)
        try:
            yield
        finally:
            self.restore()
        self.obey()

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.obey()
        self.asked = number
        if hasattr(signal, "setitimer"):  # not on Windows
            signal.signal(signal.SIGALRM, lambda *_: self.obey())
            signal.setitimer(signal.ITIMER_REAL, STOP_PATIENCE_SECONDS)

    def obey(self) -> None:
        """Calls the handler that the signal would have called. The handlers of our command line raise an exception."""
        self.restore()
        if self.asked is not None:
            signal.raise_signal(self.asked)

    def obey_together(self) -> None:
        """Obeys in all processes at once if any of them was asked."""
        self.is_agreed = True
        self.obey()
        sys.exit(SIGTERM_EXIT_CODE)  # another was asked

    def restore(self) -> None:
        if self.asked is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
