"""What many do at once takes bounded memory."""

from __future__ import annotations

import io
import threading

from made_images import encoded, photo
from PIL import Image

from mlflow_resnet.images.decoding import decode as decoding
from mlflow_resnet.images.decoding.cost import estimate_decoded_size
from mlflow_resnet.images.decoding.decode import open_picture
from mlflow_resnet.io import parallel
from mlflow_resnet.io.memory import Room

PICTURE = encoded(photo(100, 100), "PNG")


def test_large_pictures_wait_for_each_other(monkeypatch) -> None:
    with Image.open(io.BytesIO(PICTURE)) as opened:
        size = estimate_decoded_size(opened, PICTURE)
    monkeypatch.setattr(decoding, "_ROOM", Room(lambda: 2 * size))
    both_there, go_on, third_was_there = threading.Barrier(3), threading.Event(), threading.Event()

    def hold() -> None:
        with open_picture(PICTURE):
            both_there.wait(60)
            go_on.wait(60)

    def come_third() -> None:
        with open_picture(PICTURE):
            third_was_there.set()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    both_there.wait(60)
    third = threading.Thread(target=come_third)
    third.start()
    assert not third_was_there.wait(0.2)
    go_on.set()
    assert third_was_there.wait(60)
    for thread in (*threads, third):
        thread.join()


def test_one_that_is_larger_than_all_the_room_gets_it(monkeypatch) -> None:
    monkeypatch.setattr(decoding, "_ROOM", Room(lambda: 1))
    with open_picture(PICTURE) as picture:
        assert picture.size == (100, 100)


def test_a_map_takes_fewer_large_items_ahead(monkeypatch) -> None:
    monkeypatch.setattr(parallel, "MAX_BYTES_AHEAD", 100)
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    found = parallel.map_ordered(lambda number: number, items(), threads=4, weigh=lambda number: 40)
    assert next(found) == 0
    assert len(taken) == 3
    assert list(found) == list(range(1, 20))
