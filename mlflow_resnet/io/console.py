"""Progress on stderr. Of processes that train together, only the first one speaks."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

from mlflow_resnet.io.text.characters import presentable

SIGINT_EXIT_CODE, SIGTERM_EXIT_CODE = 130, 143


def is_first() -> bool:
    """Returns whether this process trains alone or is rank 0, which alone prints and logs."""
    return os.environ.get("RANK", "0") == "0"


def say(*sentences: str) -> None:
    """One line of the sentences that are not empty."""
    if is_first():
        print(presentable("; ".join(filter(None, sentences))), file=sys.stderr, flush=True)


def make_logs_presentable() -> None:
    """Applies `presentable` to what any library of this process logs."""
    before = logging.getLogRecordFactory()

    def shown(part: object) -> object:
        return "\n".join(map(presentable, str(part).split("\n"))) if isinstance(part, str | Exception) else part

    def record(*args: Any, **facts: Any) -> logging.LogRecord:
        made = before(*args, **facts)
        made.msg = shown(made.msg)
        if isinstance(made.args, tuple):
            made.args = tuple(map(shown, made.args))
        return made

    logging.setLogRecordFactory(record)


def progress_stream() -> TextIO:
    """Returns the stream that progress is shown on."""
    return sys.stderr if is_first() else open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process is
