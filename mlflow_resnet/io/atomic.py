"""Outputs that appear whole or not at all: written beside their path under a hidden name, then renamed.

Until then they lie in a folder that nobody else can enter, or under a name that nobody can guess, so that also in a
folder for everybody no other user decides what is written where.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow_resnet.errors import MlflowResnetError, OutputError
from mlflow_resnet.io.owned import (
    follow_links,
    is_open,
    is_same_file,
    is_trusted,
    lock_directory,
    make_private,
    open_to_others,
)
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.io.text.places import is_remote

# Errors of the file system written to, whatever was being written.
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextmanager
def new_directory(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty directory which becomes `path` when the block ends, and vanishes if it fails.

    Raises OutputError if `path` cannot be written, or is a non-empty directory and not `overwrite`.
    """
    final = follow_links(path)
    _refuse_occupied(final, overwrite)
    partial = _sibling(final)
    with output_errors(final):
        os.makedirs(final.parent, exist_ok=True)
        os.mkdir(partial, 0o700)
        status = os.lstat(partial)
    try:
        with disk_errors(final):
            yield partial
        with output_errors(final):
            _replace_directory(partial, status, final, overwrite)
    except BaseException:
        _remove(partial, status)
        raise


@contextmanager
def resumable_directory(path: str | os.PathLike[str], key: str, is_own: Callable[[Path], bool]) -> Iterator[Path]:
    """Yields a directory which becomes `path` when the block ends.

    If the block is interrupted, or fails with an error that is passing, the next call with the same `key` gets the
    directory as it was left; after another error of ours it vanishes. What is already at `path`, if it `is_own`, is
    linked into the directory, and is replaced by it.

    Raises OutputError if `path` cannot be written, is a non-empty directory that is not its own, or is being written.
    """
    final = follow_links(path)
    own = final.is_dir() and is_own(final)
    _refuse_occupied(final, overwrite=own)
    partial = final.with_name(f".{final.name}.{key}.partial")
    with output_errors(final):
        make_private(partial)
    with lock_directory(partial, final) as inside:
        status = os.stat(inside)
        try:
            with disk_errors(final):
                if own and not any(inside.iterdir()):
                    shutil.copytree(final, inside, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
                yield inside
            with output_errors(final):
                _replace_directory(partial, status, final, own)
        except MlflowResnetError as error:
            if not error.is_passing:
                _remove(partial, status)
            raise


@contextmanager
def new_file(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[Path]:
    """Yields the path of an empty file of the same suffix, which replaces `path` when the block ends.

    If the block fails, that file vanishes and `path` stays as it was. `mode`, less what the process denies to others,
    says who may read it. Raises OutputError if `path` cannot be written.
    """
    final = follow_links(path)
    partial = _sibling(final)
    with output_errors(final):
        _refuse_no_file(final)
        os.makedirs(final.parent, exist_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode))
    try:
        with disk_errors(final):
            yield partial
        with output_errors(final):
            os.replace(partial, final)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def resumable_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the path of a file that is not there yet, in a hidden folder; it replaces `path` when the block ends.

    If the block is interrupted or fails, `path` stays as it was, and what else the block wrote into the folder is there
    in the next call.

    Raises OutputError if `path` cannot be written, or is being written.
    """
    final = follow_links(path)
    folder = final.with_name(f".{final.name}.partial")
    with output_errors(final):
        _refuse_no_file(final)
        make_private(folder)
    with lock_directory(folder, final) as inside:
        partial, status = inside / final.name, os.stat(inside)
        try:
            with disk_errors(final):
                yield partial
            with output_errors(final):
                sync_to_disk(partial)
                os.replace(partial, final)
                sync_to_disk(final.parent)
            _remove(folder, status)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
                folder.rmdir()  # if there is nothing to go on with
            raise


def check_apart(source: str, outputs: Sequence[str]) -> None:
    """Raises OutputError if one of the directories is in another one."""
    paths = [path.rstrip("/") if is_remote(path) else os.path.realpath(path) for path in (source, *outputs)]
    for number, output in enumerate(paths[1:], 1):
        for other in paths[:number] + paths[number + 1 :]:
            if is_within(output, other) or is_within(other, output):
                raise OutputError(output, f"is {other}, in it or around it; give a directory apart from it")


def is_within(path: str, other: str) -> bool:
    """Returns whether `path` is `other`, or lies within it."""
    return f"{path}/".startswith(f"{other.rstrip('/')}/")


def check_outside(source: str, output: str | os.PathLike[str]) -> None:
    """Raises OutputError if a directory would be written inside the one that it is made of."""
    around, inside = os.path.realpath(source), os.path.realpath(output)
    if inside != around and is_within(inside, around):
        problem = f"is in {around}, whose next listing would take it for a class; give a directory apart from it"
        raise OutputError(output, problem)


def sync_to_disk(path: Path) -> None:
    """Has the system write a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def leftovers(path: Path) -> Iterator[Path]:
    """The hidden files beside `path` that become `path` when they are whole, or were left there by a killed process."""
    return path.parent.glob(f".{path.stem}.partial-*{path.suffix}")


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}{path.suffix}")


def _refuse_no_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        what = "directory" if path.is_dir() else "device or pipe"
        raise OutputError(path, f"is a {what}; give the name of a file")


def _refuse_occupied(path: Path, overwrite: bool) -> None:
    with output_errors(path):
        if os.path.ismount(path):
            raise OutputError(path, "is a mount point, which cannot be replaced; give a new folder inside it")
        if path.exists() and not path.is_dir():
            raise OutputError(path, "is a file; give the name of a directory")
        if not overwrite and path.is_dir() and any(path.iterdir()):
            raise OutputError(path, "is not empty; give a new directory, or empty this one")


def _replace_directory(partial: Path, status: os.stat_result, final: Path, overwrite: bool) -> None:
    """Makes the private folder `partial`, which has this status, the folder `final` with the usual permissions."""
    _refuse_exchanged(partial, status, final)
    open_to_others(partial)
    if not overwrite or not final.exists():
        os.rename(partial, final)  # fails if another process filled `final` meanwhile
    else:
        old = _sibling(final)
        os.rename(final, old)
        os.rename(partial, final)
        shutil.rmtree(old, ignore_errors=True)
    _refuse_exchanged(final, status, final)


def _refuse_exchanged(path: Path, status: os.stat_result, final: Path) -> None:
    around = os.stat(path.parent)
    if (is_open(around) or not is_trusted(around)) and not is_same_file(path, status):
        raise OutputError(final, "was exchanged by another user while it was written; give a place of your own")


def _remove(folder: Path, status: os.stat_result) -> None:
    """Removes the folder with this status, and no other that is there instead."""
    if is_same_file(folder, status):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Any error of the file system is an error of the output, which tells the free space if the disk is full."""
    try:
        yield
    except OSError as error:
        free = f"; {free_bytes(path)} bytes are free" if error.errno == errno.ENOSPC else ""
        raise OutputError(path, f"cannot be written ({os_reason(error)}{free})") from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk met by the caller's block is an error of the output; its other errors are its own."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        with output_errors(path):
            raise


def free_bytes(path: Path) -> int:
    """On the disk of `path`, of which the last parts need not exist."""
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def write_file(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
