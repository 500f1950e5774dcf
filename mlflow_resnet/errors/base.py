"""What all errors have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from mlflow_resnet.io.text.characters import encodable, in_lines, presentable

SIGINT_EXIT_CODE, SIGTERM_EXIT_CODE = 130, 143
LISTED = 20  # how many names a message lists before it says "and N more"


def listed(names: Iterable[object], limit: int = LISTED) -> str:
    """`names` joined with commas, cut after `limit` of them."""
    texts = [str(name) for name in names]
    more = f", and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def named(path: str | os.PathLike[str]) -> str:
    """`path` as people call it: also if it begins from the handle of an open folder."""
    text = encodable(path)
    return os.path.realpath(text) if text.startswith("/proc/self/fd/") else text


class MlflowResnetError(MlflowException):
    """Base of every error that a user can cause. Its message is one line that can be shown, without credentials."""

    exit_code = 2
    is_shared = False  # by all processes that train together, so that one of them tells it
    is_passing = False  # the same call may succeed later, so what was done up to here is kept
    has_lines = False  # the message is a list for whoever starts a server, and not one line
    status = INVALID_PARAMETER_VALUE  # MLflow's, which decides what a scoring server answers

    def __init__(self, message: str) -> None:
        lines = message.split("\n") if self.has_lines else [message]
        super().__init__(in_lines(lines), error_code=self.status)

    def serialize_as_json(self) -> str:
        """The answer of a scoring server: MLflow puts the whole input in front of `message`, which nobody needs."""
        self.message = str(self)
        return super().serialize_as_json()

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes send errors to each other; the arguments of a subclass are not those of `Exception`."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class InvalidOptionsError(MlflowResnetError):
    """One or more options cannot work; all of them are named at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class PathError(MlflowResnetError):
    """Something at `path` cannot be used."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        self.path, self.problem = presentable(named(path)), problem
        super().__init__(f"{self.path}: {problem}")
