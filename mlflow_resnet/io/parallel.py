"""Iterating with threads: a map that keeps the order and bounds the memory, and a few items ahead; batches."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_BYTES_AHEAD = 2**30


def map_ordered(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    ahead: int = 0,
    weigh: Callable[[T], int] = lambda item: 0,
) -> Generator[R, None, None]:
    """`function` of each item, in the order of `items`, computed by `threads` threads.

    At most `ahead` items, or 4 * `threads` if that is more, are taken ahead of the consumer; one thread is the
    consumer's own if none are asked for. An error is raised at its item's place. Closing the iterator cancels what has
    not begun and waits for what has. A single item needs no thread of its own.

    Where items are large, `weigh` says how many bytes each takes until it is consumed: fewer are taken ahead then.
    """
    items = iter(items)
    first = list(islice(items, 2))
    items = chain(first, items)
    if len(first) < 2 or (threads == 1 and not ahead):
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    pending: deque[tuple[Future[R], int]] = deque()
    held = 0
    try:
        for item in items:
            pending.append((pool.submit(function, item), weigh(item)))
            held += pending[-1][1]
            while pending and (len(pending) >= max(4 * threads, ahead) or held > MAX_BYTES_AHEAD):
                future, size = pending.popleft()
                held -= size
                yield future.result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def default_threads(processes: int = 0) -> int:
    """This process's share of the cores it may use, at most 32. `processes` share them; 0: torchrun says how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // (processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), 32))


def ahead(items: Generator[T, None, None], count: int) -> Generator[T, None, None]:
    """`items`, of which a thread makes up to `count` before they are asked for. Closing it closes `items`."""
    end = object()
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as at_end:
        at_end.callback(pool.submit, items.close)
        ready = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := ready.popleft().result()) is not end:
            ready.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]


def batch_items(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """`items` in lists of `size`, the last of which may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def within(seconds: float, question: Callable[[], R]) -> R:
    """The answer to `question`, asked in a thread; raises TimeoutError, and leaves that behind, if it takes longer."""
    outcome: Future[R] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(question))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():  # the question's own
            raise
        raise TimeoutError(f"no answer in {seconds:.0f} seconds") from None
