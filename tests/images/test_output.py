from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mlflow_resnet.errors import OutputError
from mlflow_resnet.io.atomic import new_directory, new_file, resumable_file


def tree(path: Path) -> set[str]:
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


def test_a_directory_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a" / "out") as directory:
        (directory / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
        assert directory.parent == tmp_path / "a"
        assert directory.name.startswith(".out.partial-")
    assert tree(tmp_path) == {"a", "a/out", "a/out/x"}


def test_a_directory_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with new_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, ConnectionError])
def test_nothing_half_written_is_left(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), new_directory(tmp_path / "out") as directory:  # noqa: PT012
        (directory / "x").write_text("1")
        raise failure
    with pytest.raises(failure), new_file(tmp_path / "out.csv") as file:  # noqa: PT012
        file.write_text("1")
        raise failure
    assert tree(tmp_path) == set()


def test_a_full_directory_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_directory(out) as directory:  # an empty one is as good as none
        (directory / "old").touch()
    with pytest.raises(OutputError, match="out: is not empty"), new_directory(out):
        pass
    assert tree(tmp_path) == {"out", "out/old"}
    with pytest.raises(ValueError, match="the work failed"), new_directory(out, overwrite=True):
        raise ValueError("the work failed")
    assert tree(tmp_path) == {"out", "out/old"}
    with new_directory(out, overwrite=True) as directory:
        (directory / "new").touch()
    assert tree(tmp_path) == {"out", "out/new"}


def test_a_directory_filled_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not empty"), new_directory(tmp_path / "out") as directory:  # noqa: PT012
        (directory / "mine").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
    assert tree(tmp_path) == {"out", "out/theirs"}


def test_a_path_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, reason in {
        tmp_path / "file": "is a file",
        tmp_path / "file" / "out": "not a directory|file exists",
        Path("/proc/out"): "cannot be written",
        Path("/proc"): "mount point",
        tmp_path / ("x" * 300): "too long",
    }.items():
        with pytest.raises(OutputError, match=reason), new_directory(path):
            pytest.fail("the work began")
    for path, reason in {
        tmp_path: "is a directory",
        tmp_path / "file" / "out.csv": "not a directory|file exists",
        Path("/proc/out.csv"): "cannot be written",
        Path("/dev/null"): "is a device",
    }.items():
        for way in (new_file, resumable_file):
            with pytest.raises(OutputError, match=reason), way(path):
                pytest.fail("the work began")
    assert tree(tmp_path) == {"file"}


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no space left"), new_directory(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match="no space left"), new_file(tmp_path / "out"):
        Path("/dev/full").write_text("x")
    assert tree(tmp_path) == set()


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.csv"
    for text in ("first", "second"):
        with new_file(out) as file:
            assert file.suffix == ".csv"
            assert file.parent == out.parent
            file.write_text(text)
            assert not out.exists() or out.read_text() == "first"
        assert out.read_text() == text
    assert tree(out.parent) == {"scores.csv"}


def test_an_interrupted_file_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.csv"
    with pytest.raises(KeyboardInterrupt), resumable_file(out) as file:  # noqa: PT012
        (file.parent / "part").write_text("1")
        file.write_text("half")
        raise KeyboardInterrupt
    assert tree(out.parent) == {".scores.csv.partial", ".scores.csv.partial/part"}
    with resumable_file(out) as file:
        assert (file.parent / "part").read_text() == "1"
        file.write_text("whole")
        with pytest.raises(OutputError, match="being written by another process"), resumable_file(out):
            pytest.fail("two at once")
    assert tree(out.parent) == {"scores.csv"}
    assert out.read_text() == "whole"
    with pytest.raises(KeyboardInterrupt), resumable_file(out):
        raise KeyboardInterrupt
    assert tree(out.parent) == {"scores.csv"}


def test_a_link_is_kept_and_its_target_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    with new_file(tmp_path / "link") as file:
        file.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out").read_text() == "x"
