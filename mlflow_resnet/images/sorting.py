"""Sorts names of which there may be too many for memory."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

NAMES_AT_ONCE = 100_000


def sort_names(names: Iterable[str], at_once: int = NAMES_AT_ONCE) -> Iterator[str]:
    """`names` in order. No more than `at_once` are in memory; if there are more, sorted files of them are merged.

    Raises OSError if a temporary file cannot be written.
    """
    names = iter(names)
    part = sorted(islice(names, at_once))
    if len(part) < at_once:
        yield from part
        return
    with ExitStack() as stack:
        files = []
        while part:
            file = stack.enter_context(tempfile.TemporaryFile("w+"))
            # JSON, because a name may have line breaks and bytes that are not UTF-8
            file.writelines(json.dumps(name) + "\n" for name in part)
            file.seek(0)
            files.append(map(json.loads, file))
            part = sorted(islice(names, at_once))
        del part
        yield from heapq.merge(*files)
