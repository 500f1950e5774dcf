"""Progress for the person at the terminal, on stderr."""

from __future__ import annotations

import sys


def say(*sentences: str) -> None:
    """One line of the sentences that are not empty."""
    print(*filter(None, sentences), sep="; ", file=sys.stderr, flush=True)
