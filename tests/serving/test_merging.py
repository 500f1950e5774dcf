"""Threads that call one network at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from rounding import assert_same_probabilities
from served import new_classifier

from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.over_http.merging import MergedForward

pytestmark = pytest.mark.networks


class Gate:
    """A network that notes its batches and their threads, and that can be held up and broken."""

    def __init__(self):
        self.predictor = Predictor(new_classifier(1), "cpu")
        self.forward = self.predictor.probabilities
        self.batches, self.threads, self.is_broken = [], [], False
        self.began, self.is_open = threading.Event(), threading.Event()
        self.is_open.set()

    def __call__(self, images):
        self.batches.append(len(images))
        self.threads.append(threading.current_thread())
        self.began.set()
        self.is_open.wait(10)
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("no memory")
        return self.forward(images)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as pool:
        yield pool


def pictures(count, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def while_one_runs(gate, merged, pool, counts):
    """What calls with so many images get that come while another call's batch is held up, and that call's future."""
    gate.began.clear()
    gate.is_open.clear()
    first = pool.submit(merged, pictures(1))
    assert gate.began.wait(10)
    later = []
    for seed, count in enumerate(counts, 1):
        later.append(pool.submit(merged, pictures(count, seed)))
        while len(merged._waiting) < seed:
            assert gate.batches[-1] == 1
    gate.is_open.set()
    return first, later


def test_who_is_alone_runs_at_once_in_his_own_thread(gate):
    merged = MergedForward(gate, 32, 32, max_latency_ms=1000)
    with merged.caller():
        for _ in range(3):
            assert merged(pictures(2)).shape == (2, 3)
    assert gate.batches == [2, 2, 2]
    assert set(gate.threads) == {threading.current_thread()}


def test_who_comes_while_a_batch_runs_is_merged_and_gets_his_own_rows(gate, pool):
    merged = MergedForward(gate, 32, 8)
    first, later = while_one_runs(gate, merged, pool, [1, 3, 2, 4, 9, 1])
    for seed, count, answer in zip(range(7), [1, 1, 3, 2, 4, 9, 1], [first, *later], strict=True):
        assert_same_probabilities(answer.result(10), gate.forward(pictures(count, seed)))
    assert gate.batches == [1, 6, 4, 9, 1]  # never more than 8 of several callers


def test_an_error_reaches_those_in_the_batch_and_nobody_else(gate, pool):
    merged = MergedForward(gate, 32, 2)
    gate.is_open.clear()
    first, later = while_one_runs(gate, merged, pool, [1, 1, 1, 1])
    assert first.result(10).shape == (1, 3)
    gate.is_broken = True
    failed = [answer.exception(10) is not None for answer in later]
    assert failed in ([True, True, False, False], [False, False, True, True], [False] * 4)
    gate.is_broken = True
    with pytest.raises(RuntimeError, match="no memory"):
        merged(pictures(1))
    assert merged(pictures(1)).shape == (1, 3)


def test_many_threads_never_get_each_others_rows(gate, pool):
    merged = MergedForward(gate, 32, 16, max_latency_ms=1)
    images = [pictures(1 + seed % 3, seed) for seed in range(100)]
    expected = [gate.forward(each) for each in images]

    def ask(each):
        with merged.caller():
            return merged(each)

    for answer, rows in zip(pool.map(ask, images), expected, strict=True):
        assert_same_probabilities(answer, rows)
    assert max(gate.batches) > 3


def test_a_batch_waits_for_callers_that_are_at_work_but_not_for_long(gate, pool):
    merged = MergedForward(gate, 32, 32, max_latency_ms=10_000)
    with merged.caller(), merged.caller():  # this thread is both
        first = pool.submit(merged, pictures(1))
        second = pool.submit(merged, pictures(1))
        assert len(first.result(5)) == len(second.result(5)) == 1
    assert gate.batches == [2]
    merged = MergedForward(gate, 32, 32, max_latency_ms=50)
    with merged.caller(), merged.caller():
        assert len(pool.submit(merged, pictures(1)).result(5)) == 1
