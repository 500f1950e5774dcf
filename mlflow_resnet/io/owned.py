"""Private folders, safe also below folders that every user may write to."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_resnet.errors import OutputError, PathError
from mlflow_resnet.io.text.characters import is_utf8
from mlflow_resnet.io.text.places import local_path, place_problem

HANDLES = "/proc/self/fd"  # Linux: names of open folders, which nobody can give to other folders
MOST_LINKS = 40  # on the way to one file, as Linux has it
ONLY_A_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def follow_links(path: str | os.PathLike[str]) -> Path:
    """Returns `path` with all links resolved.

    Raises OutputError if the last part of it is a link of another user, or any part is one in a folder for everybody:
    they could lead to any file of this user. Also if it is no path, but a URI: no folder is called "s3:"; or if it is
    not UTF-8, as libraries that write need it.
    """
    path = local_path(os.fspath(path))
    if problem := place_problem(path, in_s3=False):
        raise OutputError(path, problem)
    if path.startswith(HANDLES):
        return Path(path)
    for link, is_last in links_on(Path(path).absolute()):
        status = os.lstat(link)
        if is_trusted(status) or not (is_last or is_open(os.stat(link.parent))):
            continue
        new = read_new_status(link.parent)
        if new is None or new.st_uid != status.st_uid:
            raise OutputError(path, f"leads through {link}, a link of another user; give a path without it")
    found = os.path.realpath(path)
    if not is_utf8(found):
        problem = "is not UTF-8, and not every file can be written below such a name; rename it, or give another place"
        raise OutputError(found, problem)
    return Path(found)


def links_on(path: Path) -> Iterator[tuple[Path, bool]]:
    """Each link on the way to `path`, and whether nothing follows it."""
    there, parts, found = Path(path.anchor), list(reversed(path.parts[1:])), 0
    while parts and found < MOST_LINKS:
        part = parts.pop()
        following = there.parent if part == ".." else there / part
        if os.path.islink(following):
            yield following, not parts
            found += 1
            target = Path(os.readlink(following))
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            following = Path(target.anchor) if target.is_absolute() else there
        there = following


def make_private(path: Path) -> None:
    """Makes a folder that only this user can enter, unless it is there. Raises as `check_owned` does, and OSError."""
    os.makedirs(path.parent, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        check_owned(path, os.lstat(path))


def check_owned(path: Path, status: os.stat_result, kind: type[PathError] = OutputError) -> None:
    """Raises `kind` about `path` if it is a link or no folder, or others than this user and a group may write in it."""
    advice = "Remove it, or give a place that is not there yet"
    if not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no folder"
        raise kind(path, f"is {what}, where a folder of this user is needed. {advice}")
    if is_trusted(status) and not is_open(status):
        return
    new = read_new_status(path.parent)
    if new is None or status.st_uid not in (new.st_uid, 0):
        raise kind(path, f"belongs to another user, who could decide what is written where. {advice}")
    if is_open(status) and not is_open(new):
        raise kind(path, f"can be written by every user, who could decide what is written where. {advice}")


def is_open(status: os.stat_result) -> bool:
    """Returns whether every user may write to it."""
    return hasattr(os, "geteuid") and bool(status.st_mode & stat.S_IWOTH)


def read_new_status(folder: Path) -> os.stat_result | None:
    """The status that new private folders in `folder` get: some file systems have no owners. None if there are none."""
    new = folder / f".{secrets.token_hex(8)}"
    try:
        os.mkdir(new, 0o700)
        status = os.lstat(new)
        os.rmdir(new)
    except OSError:
        return None
    return status


def is_trusted(status: os.stat_result) -> bool:
    """Whether a file is this user's or the administrator's."""
    return not hasattr(os, "geteuid") or status.st_uid in (os.geteuid(), 0)


@contextmanager
def lock_directory(
    directory: Path, final: str | os.PathLike[str], kind: type[PathError] = OutputError
) -> Iterator[Path]:
    """Keeps other processes out of `directory`; the system opens the lock when this one ends, however that may be.

    Yields a name of the folder that stays its name, also if somebody moves it away and puts another one there.

    Raises `kind` about `final`, if another process is in it; about `directory`, as `check_owned` does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield directory
        return
    status = os.lstat(directory)
    check_owned(directory, status, kind)
    handle = os.open(directory, ONLY_A_FOLDER)
    try:
        check_owned(directory, os.fstat(handle), kind)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise kind(final, "is being written by another process; wait for it") from None
        name = Path(HANDLES, str(handle))
        yield name if name.is_dir() else directory
    finally:
        os.close(handle)


def open_to_others(folder: Path) -> None:
    """Gives a private folder the permissions that folders made by this process usually have."""
    usual = folder / f".{secrets.token_hex(4)}"
    os.mkdir(usual)
    mode = stat.S_IMODE(os.stat(usual).st_mode)
    os.rmdir(usual)
    os.chmod(folder, mode)


def is_same_file(path: Path, status: os.stat_result) -> bool:
    """Returns whether the file at `path` still has this status."""
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False
