from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.feather
import pytest

from mlflow_resnet.errors import BadImagesError, InvalidOptionsError, OutputError
from mlflow_resnet.images.cache import MODES, PreparedImages, prepare_images
from mlflow_resnet.images.decoding.decode import decode
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.scan import scan
from mlflow_resnet.io.memory import available_memory
from mlflow_resnet.io.own_folders import cache_folder

IMAGES = 15  # in `pets`


class Preparation:
    """Decodes and counts how often; the height, which differs, tells images of one color apart."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.counts: Counter[bytes] = Counter()
        self.lock = threading.Lock()

    def __call__(self, content: bytes) -> np.ndarray:
        with self.lock:
            self.counts[content] += 1
        time.sleep(self.seconds)
        pixels = np.asarray(decode(content))
        return pixels.repeat(1 + pixels[0, 0, 2], axis=0)  # the seed of `write_image` is its blue


def prepared(
    folder: Path, prepare: Callable[[bytes], np.ndarray], settings: dict[str, object] | None = None, **options: object
) -> PreparedImages:
    directory = list_labeled(folder)
    hashes = scan(directory, threads=1).hashes
    chosen = {"mode": "disk", "threads": 2, "cache_dir": folder.parent / "cache"} | options
    return prepare_images(directory, hashes, prepare, settings or {"height": "seed"}, **chosen)  # type: ignore[arg-type]


def expected(folder: Path) -> list[np.ndarray]:
    directory = list_labeled(folder)
    return [Preparation()(Path(path).read_bytes()) for path in directory.paths]


def same(images: PreparedImages, arrays: list[np.ndarray]) -> bool:
    return len(images) == len(arrays) and all(map(np.array_equal, images, arrays))


def packed_files(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache").glob("[!.]*.arrow"))


def leftovers(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache").glob(".*.arrow"))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_images(pets: Path, mode: str, threads: int) -> None:
    images = prepared(pets, Preparation(), mode=mode, threads=threads)
    arrays = expected(pets)
    for _ in range(2):
        assert same(images, arrays)
    assert {image.shape for image in images} == {(3 * (1 + seed), 4, 3) for seed in range(10)}
    assert images[IMAGES - 1].dtype == np.uint8
    with pytest.raises(IndexError):
        images[IMAGES]


@pytest.mark.parametrize("mode", MODES)
def test_nobody_can_write_into_an_image_that_others_read(pets: Path, mode: str) -> None:
    image = prepared(pets, Preparation(), mode=mode)[0]
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 1
    image.copy()[0, 0, 0] = 1


def test_says_where_the_images_are_kept(pets: Path) -> None:
    described = {mode: prepared(pets, Preparation(), mode=mode).description for mode in MODES}
    assert described["ram"].startswith("kept in memory (about 0 MiB of ")
    assert described["auto"].startswith("kept in memory (about 0 MiB of ")
    assert described["none"] == "prepared anew at every read"
    assert described["disk"] == f"kept on disk (0 MiB in {packed_files(pets)[0]})"


@pytest.mark.parametrize("mode", ["ram", "auto"])
def test_in_memory_each_image_is_prepared_once_whatever_the_threads(
    pets: Path, write_image: Callable[..., Path], mode: str
) -> None:
    for seed in range(10, 80):  # more than are prepared to estimate the size
        write_image(f"pets/cat/{seed}.png", seed)
    prepare = Preparation(seconds=0.002)
    images = prepared(pets, prepare, mode=mode)
    assert 0 < prepare.counts.total() < len(images)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(images.__getitem__, list(range(len(images))) * 4, chunksize=1))
    assert prepare.counts.total() == len(images) == IMAGES + 70
    assert images.memory_bytes == pytest.approx(sum(image.nbytes for image in images), rel=0.2)


def test_memory_grows_only_where_images_are_kept_in_it(pets: Path) -> None:
    megabyte = 2**20

    def big(content: bytes) -> np.ndarray:
        return np.full((1024, 1024, 3), len(content), dtype=np.uint8)

    def growth(mode: str) -> float:
        """Of what this process allocates; its resident memory would depend on what ran before."""
        before, _ = tracemalloc.get_traced_memory()
        images = prepared(pets, big, mode=mode)
        assert images.memory_bytes == (IMAGES * 3 * megabyte if mode == "ram" else 0)
        for index in list(range(IMAGES)) * 2:
            images[index].sum()
        return (tracemalloc.get_traced_memory()[0] - before) / megabyte

    tracemalloc.start()
    try:
        assert growth("none") < 3, "less than one image"
        assert growth("ram") >= IMAGES * 3
    finally:
        tracemalloc.stop()


def test_a_second_run_reads_the_file_of_the_first(pets: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    prepared(pets, Preparation(), on_image=lambda: calls.append(1))
    assert len(calls) == IMAGES
    shutil.copytree(pets, tmp_path / "elsewhere" / "renamed")
    (tmp_path / "elsewhere" / "renamed" / "cat").rename(tmp_path / "elsewhere" / "renamed" / "chat")
    again = Preparation()
    images = prepared(
        tmp_path / "elsewhere" / "renamed", again, cache_dir=tmp_path / "cache", on_image=lambda: calls.append(1)
    )
    assert same(images, expected(pets))
    assert again.counts.total() == 0
    assert len(calls) == IMAGES
    assert len(packed_files(pets)) == 1


@pytest.mark.parametrize("change", ["an image", "a setting", "removed", "order"])
def test_another_image_or_setting_gets_another_file(pets: Path, change: str) -> None:
    prepared(pets, Preparation(), {"resize_size": 256})
    settings: dict[str, object] = {"resize_size": 256}
    first = pets / "cat" / "0.png"
    if change == "an image":
        first.write_bytes((pets / "cat" / "9.png").read_bytes())
    elif change == "a setting":
        settings = {"resize_size": 224}
    elif change == "removed":
        first.unlink()
    else:
        first.rename(pets / "cat" / "a.png")
    prepare = Preparation()
    assert same(prepared(pets, prepare, settings), expected(pets))
    assert prepare.counts.total() > 0
    assert len(packed_files(pets)) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "one byte short", "no footer", "zeros", "other columns"])
def test_a_damaged_file_is_made_again(pets: Path, damage: str) -> None:
    prepared(pets, Preparation())
    (path,) = packed_files(pets)
    whole = path.read_bytes()
    if damage == "other columns":
        pyarrow.feather.write_feather(pyarrow.table({"x": range(IMAGES)}), str(path), compression="uncompressed")
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut": whole[: len(whole) // 2],
                "one byte short": whole[:-1],
                "no footer": whole[:-200] + bytes(200),
                "zeros": bytes(len(whole)),
            }[damage]
        )
    prepare = Preparation()
    assert same(prepared(pets, prepare), expected(pets))
    assert prepare.counts.total() > 0
    assert path.read_bytes() == whole


# Packs the images of the folder argv[1] below argv[2]; prints how often it prepared one and the sum of all pixels.
# At image number argv[3] it makes a file "stopped", and goes on when there is a file "go", or after 30 seconds.
BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from mlflow_resnet.images.cache import prepare_images
from mlflow_resnet.images.decoding.decode import decode
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.scan import scan
folder, cache_dir, stop_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
packed = prepared = 0
def prepare(content):
    global prepared
    prepared += 1
    return np.asarray(decode(content))
def on_image():
    global packed
    packed += 1
    if packed == stop_at:
        cache_dir.joinpath("stopped").touch()
        deadline = time.monotonic() + 30
        while not cache_dir.joinpath("go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
directory = list_labeled(folder)
images = prepare_images(directory, scan(directory, 1).hashes, prepare, {}, mode="disk", cache_dir=cache_dir,
                         threads=1, on_image=on_image)
print(packed, sum(int(image.sum()) for image in images))
"""


@contextmanager
def builder(folder: Path, stop_at: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", BUILDER, str(folder), str(folder.parent / "cache"), str(stop_at)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


def answer(process: subprocess.Popen[str]) -> list[int]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [int(word) for word in output.split()]


def sum_of(folder: Path) -> int:
    return sum(int(np.asarray(decode(Path(path).read_bytes())).sum()) for path in list_labeled(folder).paths)


@pytest.mark.process
def test_two_processes_that_want_the_same_file_both_get_it_and_one_makes_it(pets: Path) -> None:
    with builder(pets, stop_at=5) as first, builder(pets, stop_at=5) as second:
        wait_for(pets.parent / "cache" / "stopped")
        time.sleep(1)  # the other one arrives
        (pets.parent / "cache" / "go").touch()
        answers = sorted([answer(first), answer(second)])
    assert answers == [[0, sum_of(pets)], [IMAGES, sum_of(pets)]]
    assert len(packed_files(pets)) == 1
    assert leftovers(pets) == []


@pytest.mark.process
def test_nothing_of_a_killed_process_is_taken_and_its_leftovers_go(
    pets: Path, write_image: Callable[..., Path]
) -> None:
    for seed in range(10, 100):  # so many that some are on disk when it is killed
        write_image(f"pets/cat/{seed}.png", seed)
    with builder(pets, stop_at=80) as process:
        wait_for(pets.parent / "cache" / "stopped")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert packed_files(pets) == []
    assert len(leftovers(pets)) == 1
    (pets / "dog" / "0.png").unlink()  # also if it was another file that was being made
    assert same(prepared(pets, Preparation()), expected(pets))
    assert leftovers(pets) == []


@pytest.mark.process
def test_what_a_living_process_writes_is_left_alone(pets: Path, write_image: Callable[..., Path]) -> None:
    with builder(pets, stop_at=5) as process:
        wait_for(pets.parent / "cache" / "stopped")
        assert same(prepared(pets, Preparation()), expected(pets))  # of other settings
        assert len(leftovers(pets)) == 1
        (pets.parent / "cache" / "go").touch()
        assert answer(process) == [IMAGES, sum_of(pets)]
    assert len(packed_files(pets)) == 2


@pytest.mark.process
def test_a_disk_that_fills_up_is_one_sentence(pets: Path) -> None:
    """The limit on the size of files makes the same writes fail as a full disk does."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))\n" + BUILDER
    command = [sys.executable, "-c", limited, str(pets), str(pets.parent / "cache"), "0"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    last_line = done.stderr.strip().splitlines()[-1]
    assert "OutputError: " in last_line
    assert f"{pets.parent / 'cache'}{os.sep}" in last_line
    assert "cannot be written (file too large); name another folder with --cache-dir, or pass --cache none" in last_line
    assert packed_files(pets) == leftovers(pets) == []


def vast(content: bytes) -> np.ndarray:
    """Terabytes of zeros that take no memory."""
    return np.broadcast_to(np.zeros(1, dtype=np.uint8), (10**6, 10**6, 3))


def test_a_disk_without_room_is_told_before_the_work(pets: Path) -> None:
    with pytest.raises(OutputError, match=r"it takes about 41909\.5 GiB, and .* are free\); name another folder"):
        prepared(pets, vast, on_image=lambda: pytest.fail("the work began"))
    assert packed_files(pets) == leftovers(pets) == []


@pytest.mark.parametrize("place", ["file/cache", "/proc/cache"])
def test_a_folder_that_cannot_be_written_is_one_sentence(pets: Path, place: str) -> None:
    (pets.parent / "file").touch()
    cache_dir = pets.parent / place
    with pytest.raises(OutputError, match=rf"{place}/\w+.arrow: cannot be written \(.*\); .* --cache-dir, or .* none"):
        prepared(pets, Preparation(), cache_dir=cache_dir)


@pytest.mark.parametrize("processes", [1, 4])
def test_images_that_do_not_fit_in_memory_are_refused_with_the_numbers(pets: Path, processes: int) -> None:
    each = " to each of 4 processes" if processes == 4 else ""
    problem = (
        rf"take about 41909\.5 GiB of .* available{each}, over the limit of 80%; pass --cache disk or --cache none"
    )
    with pytest.raises(InvalidOptionsError, match=problem):
        prepared(pets, vast, mode="ram", processes=processes)


def test_auto_keeps_images_only_where_they_fit_easily(pets: Path) -> None:
    images = prepared(pets, vast, mode="auto")
    assert images.description.startswith("prepared anew at every read (keeping them would take about 41909.5 GiB of ")
    assert images.memory_bytes == 0
    assert packed_files(pets) == []
    for crowded in ({"processes": 10**9}, {"reserved_bytes": 10**18}):
        assert prepared(pets, Preparation(), mode="auto").description.startswith("kept in memory")
        assert prepared(pets, Preparation(), mode="auto", **crowded).description.startswith("prepared anew")


@pytest.mark.parametrize("mode", ["none", "ram", "disk"])
@pytest.mark.parametrize("change", ["deleted", "changed", "damaged"])
def test_an_image_that_is_no_longer_what_was_scanned_is_named(pets: Path, mode: str, change: str) -> None:
    directory = list_labeled(pets)
    hashes = scan(directory, threads=1).hashes
    path = pets / "dog" / "3.png"
    if change == "deleted":
        path.unlink()
    else:
        path.write_bytes((pets / "dog" / "4.png").read_bytes() if change == "changed" else b"")
    reason = {"deleted": "no such file", "changed": "changed since it was scanned", "damaged": "empty file"}[change]
    with pytest.raises(BadImagesError, match=f"pets: 1 unreadable image: dog/3.png .{reason}") as caught:
        list(
            prepare_images(directory, hashes, Preparation(), {}, mode=mode, threads=2, cache_dir=pets.parent / "cache")
        )
    assert caught.value.reasons == {"dog/3.png": reason}
    assert packed_files(pets) == leftovers(pets) == []


def test_an_unknown_mode_is_told_the_known_ones(pets: Path) -> None:
    with pytest.raises(InvalidOptionsError, match="cache is 'tape'; choose one of auto, ram, disk, none"):
        prepared(pets, Preparation(), mode="tape")


def test_files_go_where_the_person_or_the_system_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RESNET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mlflow_resnet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mlflow_resnet"
    monkeypatch.setenv("MLFLOW_RESNET_CACHE", str(tmp_path / "ours"))
    assert cache_folder() == tmp_path / "ours"
    assert cache_folder("named") == Path("named")


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.mark.parametrize("seen_as", ["/", "/docker/1f2e"])
def test_the_limit_of_a_container_counts(tmp_path: Path, seen_as: str) -> None:
    """The kernel's files, as a container sees them: 100 bytes, 70 used, 20 of them cached files."""
    membership = tmp_path / "cgroup"
    membership.write_text(f"0::{seen_as}\n")
    stat = "anon 50\ninactive_file 20"
    group(tmp_path / "v2", memory__max=100, memory__current=70, memory__stat=stat)
    assert available_memory(tmp_path / "v2", membership) == 50
    group(tmp_path / "v2", memory__max="max")
    assert available_memory(tmp_path / "v2", membership) > 2**20

    membership.write_text(f"3:cpuset:/\n4:cpu,memory:{seen_as}\n0::/\n")
    stat = "inactive_file 1\ntotal_inactive_file 20"
    files = {"memory__limit_in_bytes": 100, "memory__usage_in_bytes": 70, "memory__stat": stat}
    group(tmp_path / "v1" / "memory", **files)
    assert available_memory(tmp_path / "v1", membership) == 50


def test_the_nearest_limit_around_a_process_counts(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/slice/job\n")
    group(tmp_path / "v2" / "slice" / "job", memory__max=900, memory__current=0, memory__stat="inactive_file 0")
    group(tmp_path / "v2" / "slice", memory__max=100, memory__current=200, memory__stat="inactive_file 10")
    assert available_memory(tmp_path / "v2", membership) == 0
    assert available_memory(tmp_path / "v2", tmp_path / "not Linux") > 2**20
