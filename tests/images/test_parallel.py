from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mlflow_resnet.io.parallel import ahead, batch_items, default_threads, map_ordered


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def slow_when_early(item: int) -> int:
        time.sleep(0.02 if item % 5 == 0 else 0)
        return item * item

    assert list(map_ordered(slow_when_early, range(60), threads)) == [item * item for item in range(60)]
    assert list(map_ordered(slow_when_early, [], threads)) == []


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 12)])
def test_takes_few_items_ahead_of_the_consumer(threads: int, ahead: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = map_ordered(lambda item: item, items(), threads)
    for used in range(1, 50):
        assert next(results) == used
        assert taken <= used + ahead
    results.close()


def test_uses_as_many_threads_as_asked_and_none_for_one() -> None:
    barrier = threading.Barrier(3, timeout=5)
    names = set(map_ordered(lambda _: barrier.wait() >= 0 and threading.current_thread().name, range(12), 3))
    assert len(names) == 3
    assert list(map_ordered(lambda _: threading.current_thread(), range(2), 1)) == [threading.current_thread()] * 2


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_is_raised_at_its_place(threads: int) -> None:
    results = map_ordered(lambda item: 1 // (5 - item), range(10), threads)
    assert [next(results) for _ in range(5)] == [0, 0, 0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_early_cancels_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        return item

    before = threading.active_count()
    results = map_ordered(work, range(1000), 2)
    assert next(results) == 0
    started = time.perf_counter()
    results.close()
    assert time.perf_counter() - started < 1
    assert len(begun) < 8
    assert threading.active_count() == before


def test_default_threads_is_a_sane_number() -> None:
    assert 1 <= default_threads() <= 32


def test_items_are_made_ahead_of_the_consumer():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    taken = ahead(items(), 3)
    assert next(taken) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3]
    assert list(taken) == list(range(1, 10))


def test_closing_what_is_ahead_closes_its_source():
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    taken = ahead(items(), 2)
    next(taken)
    taken.close()
    assert closed == [True]


def test_an_error_ahead_reaches_the_consumer_in_its_place():
    def items():
        yield 1
        raise ValueError("broken")

    taken = ahead(items(), 2)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="broken"):
        next(taken)


def test_batches_keep_the_order_and_the_rest():
    assert list(batch_items(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
