"""Outputs in a folder that everybody may write to: no other user decides what is written where."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from helpers import run_main, write_picture

from mlflow_resnet.errors import CheckpointError, OutputError
from mlflow_resnet.io.atomic import new_directory, new_file, resumable_directory, resumable_file
from mlflow_resnet.io.own_folders import private_cache
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.folder import open_training_folder, training_folder

STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users: run the tests as root")


def resumed(path: Path) -> AbstractContextManager[Path]:
    return resumable_directory(path, "key", lambda path: False)


# name of the hidden folder that an attacker can foresee -> what makes it
FORESEEN = {".out.partial": resumable_file, ".out.key.partial": resumed}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder for everybody, in which everybody may also rename what others have made."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def give_away(path: Path) -> Path:
    """Makes a file, folder or link that of another user."""
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return path


@as_root
@pytest.mark.parametrize("name", FORESEEN)
def test_a_working_folder_that_somebody_else_made_is_refused(shared: Path, name: str) -> None:
    victim = shared.parent / "victim"
    victim.write_text("mine")
    planted = shared / name
    planted.mkdir()
    (planted / "out").symlink_to(victim)
    give_away(planted)
    with pytest.raises(OutputError, match="belongs to another user"), FORESEEN[name](shared / "out"):
        pytest.fail("the work began")
    assert victim.read_text() == "mine"
    assert not (shared / "out").exists()


@pytest.mark.parametrize("name", FORESEEN)
@pytest.mark.parametrize("kind", ["link", "file", "for everybody"])
def test_a_working_folder_that_somebody_could_have_changed_is_refused(shared: Path, name: str, kind: str) -> None:
    elsewhere = shared.parent / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        (shared / name).symlink_to(elsewhere)
    elif kind == "file":
        (shared / name).touch()
    else:
        (shared / name).mkdir()
        (shared / name).chmod(0o777)
    with pytest.raises(OutputError, match="Remove it, or give a place") as caught, FORESEEN[name](shared / "out"):
        pytest.fail("the work began")
    assert "\n" not in caught.value.message
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", FORESEEN)
def test_nobody_else_can_enter_while_it_is_written_and_all_can_read_it_afterwards(shared: Path, name: str) -> None:
    with FORESEEN[name](shared / "out") as path:
        assert stat.S_IMODE((shared / name).stat().st_mode) == 0o700
        inside = path if name == ".out.key.partial" else path.parent
        assert inside.samefile(shared / name)
        (path / "x" if name == ".out.key.partial" else path).write_text("1")
    with new_directory(shared / "usual") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "x").write_text("1")
    usual = shared.parent / "made"
    (usual.touch if (shared / "out").is_file() else usual.mkdir)()
    assert (shared / "out").stat().st_mode == usual.stat().st_mode


def exchange(folder: Path, victim: Path) -> None:
    """What an attacker does who may rename: puts a folder of his own in the place, with links to what he is after."""
    folder.rename(folder.with_name("taken"))
    folder.mkdir()
    (folder / "out").symlink_to(victim)
    (folder / "x").symlink_to(victim)


def test_a_folder_exchanged_while_a_file_is_written_gets_nothing(shared: Path) -> None:
    victim = shared.parent / "victim"
    victim.write_text("mine")
    with resumable_file(shared / "out") as path:
        exchange(shared / ".out.partial", victim)
        path.write_text("scores")
    assert victim.read_text() == "mine"
    assert (shared / "out").read_text() == "scores"
    assert not (shared / "out").is_symlink()
    assert (shared / ".out.partial" / "x").is_symlink()  # what is not ours is not removed


def test_a_folder_exchanged_for_another_does_not_become_the_output(shared: Path) -> None:
    victim = shared.parent / "victim"
    victim.write_text("mine")
    with pytest.raises(OutputError, match="exchanged by another user"), resumed(shared / "out") as folder:  # noqa: PT012
        exchange(shared / ".out.key.partial", victim)
        (folder / "x").write_text("an image")
    (shared / "taken").rename(shared / "first")
    with pytest.raises(OutputError, match="exchanged by another user"), new_directory(shared / "out") as folder:
        exchange(folder, victim)
    assert victim.read_text() == "mine"
    assert not (shared / "out").exists()


@as_root
@pytest.mark.parametrize("way", [new_file, resumable_file, new_directory, resumed])
def test_a_link_of_another_user_is_not_followed(shared: Path, way: Callable[..., AbstractContextManager[Path]]) -> None:
    (shared.parent / "mine").mkdir()
    for place in (shared, shared.parent):  # also where only the attacker could have put the link
        (place / "link").symlink_to(shared.parent / "mine")
        give_away(place / "link")
        with pytest.raises(OutputError, match="a link of another user"), way(place / "link"):
            pytest.fail("the work began")
    with pytest.raises(OutputError, match="a link of another user"), way(shared / "link" / "out"):
        pytest.fail("the work began")
    with pytest.raises(OutputError, match="a link of another user"), way(shared / "link" / ".." / "out"):
        pytest.fail("the work began")
    assert list((shared.parent / "mine").iterdir()) == []


def test_links_of_ones_own_are_followed_also_in_a_circle(shared: Path) -> None:
    (shared / "a").symlink_to("b")
    (shared / "b").symlink_to("a")
    with pytest.raises(OutputError, match="cannot be written"), new_file(shared / "a" / "out"):
        pytest.fail("the work began")
    (shared / "mine").mkdir()
    (shared / "first").symlink_to("second")
    (shared / "second").symlink_to("../shared/mine")
    with new_file(shared / "first" / "out") as file:
        file.write_text("x")
    assert (shared / "mine" / "out").read_text() == "x"


@as_root
def test_a_conversion_into_a_shared_folder_says_why_it_is_refused(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(shared.parent / "photos" / "a.png", (1, 2, 3), 1)
    done = run_main("convert", "--source", shared.parent / "photos", "--output-dir", shared / "first")
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(os, "rename", lambda *_: 1 / 0)  # the working folder stays, as after a kill
    with pytest.raises(ZeroDivisionError):
        run_main("convert", "--source", shared.parent / "photos", "--output-dir", shared / "out")
    monkeypatch.undo()
    (left,) = shared.glob(".out.*.partial")
    give_away(left)
    done = run_main("convert", "--source", shared.parent / "photos", "--output-dir", shared / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{left}: belongs to another user" in done.stderr


def checkpoints_in(folder: Path) -> AbstractContextManager[object]:
    return training_folder(TrainOptions(train_dir="photos", checkpoint_dir=str(folder)))


def test_checkpoints_and_the_cache_are_for_one_user_alone(shared: Path) -> None:
    with checkpoints_in(shared / "new") as folder:
        folder.notes.note(run_id="1")
        assert stat.S_IMODE((shared / "new").stat().st_mode) == 0o700
        assert stat.S_IMODE((shared / "new" / "training.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(private_cache(shared / "cache").stat().st_mode) == 0o700
    for use in (checkpoints_in, private_cache):
        with pytest.raises(OutputError, match="can be written by every user"):
            use(shared).__enter__()  # the first raises only here
    (shared / "new").chmod(0o777)
    with (
        pytest.raises(CheckpointError, match="can be written by every user"),
        open_training_folder(str(shared / "new")),
    ):
        pytest.fail("it was opened")


@as_root
def test_checkpoints_and_the_cache_are_not_kept_where_somebody_else_is_at_home(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("theirs", "checkpoints"):
        (shared / name).mkdir()
        give_away(shared / name)
    monkeypatch.chdir(shared)
    for use in (
        lambda: checkpoints_in(shared / "theirs").__enter__(),
        lambda: training_folder(TrainOptions(train_dir="photos")).__enter__(),  # below checkpoints/
        lambda: private_cache(shared / "theirs"),
    ):
        with pytest.raises(OutputError, match="belongs to another user"):
            use()
    assert list((shared / "theirs").iterdir()) == list((shared / "checkpoints").iterdir()) == []
