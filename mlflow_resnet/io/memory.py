"""Available memory, sizes in words, and a budget for concurrent work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from threading import Condition

# Where a control group tells its limit, its use, and (in memory.stat) the cached files it would give back.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def available_memory(groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that can be taken without swapping: the system's, or less where a container's limit (cgroup) is nearer.

    `groups` is where Linux shows the control groups, `membership` the file that names this process's.
    """
    return min([_measure_unused(), *_rooms(groups, membership)])


def size_in_words(size: float) -> str:
    """A number of bytes as "12 MiB" or "3.4 GiB"."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _measure_unused() -> int:
    """Returns the unused bytes of the system's memory; 0 if unknown."""
    try:
        import psutil
    except ImportError:  # a saved model does not require it
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError):  # not Linux
            return 0
    return psutil.virtual_memory().available


def _rooms(groups: Path, membership: Path) -> Iterator[int]:
    """Free bytes of each limited group around this process.

    A container often sees its own group as the root, and none at the path it is told: what is not there is passed over.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, (limit, usage, reclaimable) = (groups / "memory", _VERSION_1) if controllers else (groups, _VERSION_2)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                with suppress(OSError, ValueError, KeyError):  # no such group, or its limit is "max"
                    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    used = int((folder / usage).read_text()) - int(stat[reclaimable])
                    yield max(int((folder / limit).read_text()) - used, 0)


class Room:
    """Room for `total` bytes. What would exceed it waits."""

    def __init__(self, find_total: Callable[[], int], is_strict: bool = False) -> None:
        """Args:
        find_total: asked once, when somebody wants room.
        is_strict: whether what is alone over the total cannot be held; otherwise it gets all of the room.
        """
        self._find_total, self.is_strict, self._taken = find_total, is_strict, 0
        self._changed = Condition()

    @cached_property
    def total(self) -> int:
        return max(1, self._find_total())

    def can_hold(self, size: int) -> bool:
        return size <= self.total or not self.is_strict

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Takes `size` bytes, or all of the room, while the block runs.

        A thread that holds some must not ask for more.
        """
        with self._changed:
            size = min(size, self.total)
            self._changed.wait_for(lambda: self._taken + size <= self.total)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
