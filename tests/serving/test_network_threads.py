"""The threads of a server that run networks."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from rounding import assert_same_probabilities
from served import new_classifier

from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.over_http.network_threads import spread

CORES = torch.get_num_threads()


class Noted:
    """A network that answers with the first value of each image, and notes who runs it with how many cores."""

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append((len(images), threading.get_ident(), torch.get_num_threads()))
        return images[:, :1, 0, 0].numpy().astype(np.float32)


def numbered(count):
    return torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1).expand(count, 3, 4, 4)


def test_a_few_images_have_all_cores_and_always_the_same_thread():
    noted = Noted()
    run = spread(noted)
    with ThreadPoolExecutor(8) as pool:
        assert [len(rows) for rows in pool.map(run, [numbered(1)] * 8)] == [1] * 8
    assert {count for count, _, _ in noted.calls} == {1}
    assert len({thread for _, thread, _ in noted.calls}) == 1
    assert {cores for _, _, cores in noted.calls} == {CORES}


def test_each_core_has_a_share_of_many_images_and_rows_keep_their_order():
    noted = Noted()
    rows = spread(noted)(numbered(13 * CORES))
    assert rows[:, 0].tolist() == list(range(13 * CORES))
    assert [count for count, _, _ in noted.calls] == [13] * CORES
    assert {cores for _, _, cores in noted.calls} == {1}


def test_other_threads_keep_their_cores():
    spread(Noted())(numbered(4 * CORES))
    with ThreadPoolExecutor(1) as pool:
        assert [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()] == [CORES, CORES]


@pytest.mark.networks
def test_shares_are_answered_as_the_whole():
    forward = Predictor(new_classifier(1), "cpu").probabilities
    images = torch.randint(0, 256, (4 * CORES + 1, 3, 32, 32), dtype=torch.uint8)
    assert_same_probabilities(spread(forward)(images), forward(images))


def test_an_error_reaches_who_asked():
    def broken(images):
        raise RuntimeError("no memory")

    for count in (1, 4 * CORES):
        with pytest.raises(RuntimeError, match="no memory"):
            spread(broken)(numbered(count))
    assert len(spread(Noted())(numbered(4 * CORES))) == 4 * CORES


def count_rows(answers):
    answers.put(len(spread(Noted())(numbered(4 * CORES))))


def test_a_process_that_was_forked_has_threads_of_its_own():
    assert len(spread(Noted())(numbered(1))) == 1
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=count_rows, args=(answers,), daemon=True)
    child.start()
    assert answers.get(timeout=60) == 4 * CORES
    child.join(60)
