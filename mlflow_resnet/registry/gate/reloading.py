"""The policy as its file has it now, without a restart of the server."""

from __future__ import annotations

import logging
from pathlib import Path

from mlflow_resnet.registry.gate.policy import InvalidPolicyError, Policy, read_policy

_logger = logging.getLogger(__name__)


class PolicyFile:
    """The policy as the file has it now. A change with mistakes leaves the rules as they were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = self.state()
        self.policy = read_policy(path)

    def state(self) -> tuple[int, int, int] | None:
        """What differs when the file was written or replaced."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def current(self) -> Policy:
        state = self.state()
        if state != self.seen:
            self.seen = state
            try:
                self.policy = read_policy(self.path)
                _logger.warning("%s: read again, policy %s", self.path, self.policy.digest)
            except InvalidPolicyError as error:
                _logger.error("%s\nThe rules stay as they were, policy %s.", error.message, self.policy.digest)
        return self.policy
