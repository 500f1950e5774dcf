"""Progress for the person at the terminal, on stderr."""

from __future__ import annotations

import os
import sys


def say(*sentences: str) -> None:
    """One line of the sentences that are not empty. Of processes that train together, only the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(*filter(None, sentences), sep="; ", file=sys.stderr, flush=True)
