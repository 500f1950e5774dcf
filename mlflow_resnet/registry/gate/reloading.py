"""Reloads the policy when its file changes, without a restart of the server."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from mlflow_resnet.registry.gate.policy import InvalidPolicyError, Policy, read_policy

_logger = logging.getLogger(__name__)


SECONDS_BETWEEN_LOOKS = 1.0


class PolicyFile:
    """The policy as the file has it now. A change with mistakes leaves the rules as they were.

    A thread looks too: a worker that nobody asks for a while must not miss rules that came before such a change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = self.state()
        self.policy = read_policy(path)
        self.reading = threading.Lock()
        threading.Thread(target=self.watch, daemon=True, name="watches the policy").start()

    def watch(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self.current()

    def state(self) -> tuple[int, int, int] | None:
        """Returns what changes when the file is written or replaced."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def current(self) -> Policy:
        with self.reading:
            state = self.state()
            if state != self.seen:
                self.seen = state
                self.read_again()
            return self.policy

    def read_again(self) -> None:
        try:
            self.policy = read_policy(self.path)
            _logger.warning("%s: read again, policy %s", self.path, self.policy.digest)
        except InvalidPolicyError as error:
            _logger.error("%s\nThe rules stay as they were, policy %s.", error.message, self.policy.digest)
