"""Progress for the person at the terminal, on stderr. Of processes that train together, only the first one speaks."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def is_first() -> bool:
    """Whether this process trains alone, or is the one that speaks and logs. torchrun sets the variable."""
    return os.environ.get("RANK", "0") == "0"


def say(*sentences: str) -> None:
    """One line of the sentences that are not empty."""
    if is_first():
        print(*filter(None, sentences), sep="; ", file=sys.stderr, flush=True)


def progress_stream() -> TextIO:
    """Where progress is shown."""
    return sys.stderr if is_first() else open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process is
