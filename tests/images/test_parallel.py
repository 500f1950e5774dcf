from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mlflow_resnet.images.parallel import default_threads, map_ordered


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
