"""Files that somebody exchanges while a server reads them."""

import os
import threading

import pytest
from served import PICTURE, picture

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.scoring.over_http.guard import REFUSED, Guard

SECRET = picture((33, 33))


@pytest.fixture
def guard(tmp_path):
    """An opened folder with a picture in a folder, and a secret beside it."""
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "folder" / "a.png").write_bytes(PICTURE)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.png").write_bytes(SECRET)
    return Guard(serving=True, root=tmp_path / "root")


def read(source):
    try:
        return source.read()
    except InvalidImageError as error:
        return error.message


def test_a_file_in_the_folder_is_read_also_through_a_link_that_stays_inside(guard):
    (guard.root / "link.png").symlink_to("folder/a.png")
    (guard.root / "linked").symlink_to("folder")
    for name in ("folder/a.png", "link.png", "linked/a.png", "folder/../link.png", str(guard.root / "folder/a.png")):
        assert guard.file(name).read() == PICTURE
        assert guard.file(name).name == name


@pytest.mark.parametrize("exchanged", ["folder/a.png", "folder"])
def test_what_is_exchanged_for_a_link_after_the_check_is_not_followed(exchanged, guard, tmp_path):
    source = guard.file("folder/a.png")
    (guard.root / exchanged).rename(tmp_path / "away")
    (guard.root / exchanged).symlink_to(tmp_path / ("outside" if exchanged == "folder" else "outside/a.png"))
    assert read(source) == REFUSED


def test_what_becomes_something_else_after_the_check_is_not_waited_for(guard):
    source = guard.file("folder/a.png")
    (guard.root / "folder" / "a.png").unlink()
    assert read(source) == REFUSED
    os.mkfifo(guard.root / "folder" / "a.png")
    assert read(source) == "not a regular file"


@pytest.mark.parametrize("exchanged", ["folder/a.png", "folder"])
def test_no_exchange_at_any_moment_lets_a_file_outside_be_read(exchanged, guard, tmp_path):
    place, stop = guard.root / exchanged, threading.Event()
    link = tmp_path / "link"

    def exchange():
        while not stop.is_set():
            link.symlink_to(tmp_path / ("outside" if exchanged == "folder" else "outside/a.png"))
            place.rename(tmp_path / "away")
            link.rename(place)
            place.unlink()
            (tmp_path / "away").rename(place)

    thread = threading.Thread(target=exchange)
    thread.start()
    found = set()
    try:
        for _ in range(2000):
            try:
                found.add(read(guard.file("folder/a.png")))
            except InvalidImageError as error:
                found.add(error.message)
    finally:
        stop.set()
        thread.join()
    assert found <= {PICTURE, REFUSED}
