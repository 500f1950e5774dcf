from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import run_main
from tiers import needs

from mlflow_resnet.errors import InvalidDatasetError, NotLabeledDatasetError
from mlflow_resnet.images.decoding.decode import read_bytes
from mlflow_resnet.images.directories import Walk, list_labeled, sort_names
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import directory_sources, places

Write = Callable[..., Path]


def test_lists_images_by_class_folder_at_any_depth(tmp_path: Path, write_image: Write) -> None:
    for name in ("dog/2.png", "dog/10.JPG", "cat/deep/er/1.webp", "cat/z.png", "cat/a.tiff"):
        write_image(name)
    (tmp_path / "bird").mkdir()
    found = list_labeled(tmp_path)
    assert found.classes == ("bird", "cat", "dog")
    assert found.names == ("cat/a.tiff", "cat/z.png", "cat/deep/er/1.webp", "dog/10.JPG", "dog/2.png")
    assert found.labels == ("cat", "cat", "cat", "dog", "dog")
    assert found.counts() == {"bird": 0, "cat": 3, "dog": 2}
    assert found.paths[0] == str(tmp_path / "cat" / "a.tiff")
    assert len(found) == 5
    assert found.ignored == Ignored()
    assert str(found.ignored) == ""


def test_a_listing_can_be_cut(pets: Path) -> None:
    found = list_labeled(pets)
    some = found.subset([0, 12])
    assert (some.names, some.labels, some.classes) == (("cat/0.png", "dog/2.png"), ("cat", "dog"), ("cat", "dog"))
    assert found.without(["cat/0.png", "dog/4.png"]).counts() == {"cat": 9, "dog": 4}


def test_ignores_what_is_not_part_of_the_data_and_says_how_much(tmp_path: Path, write_image: Write) -> None:
    for name in (
        "cat/1.png",
        "cat/._1.png",
        "cat/.ipynb_checkpoints/1.png",
        ".git/1.png",
        "__MACOSX/cat/1.png",
        "l.png",
    ):
        write_image(name)
    for name in ("cat/Thumbs.db", "labels.csv"):
        (tmp_path / name).write_text("text")
    (tmp_path / "cat" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "cat" / "fifo.png")
    found = list_labeled(tmp_path)
    assert found.names == ("cat/1.png",)
    assert found.classes == ("cat",)
    assert found.ignored == Ignored(hidden=4, not_images=3, beside_classes=1)
    assert str(found.ignored) == "ignored 4 hidden, 3 without an image's extension, 1 beside the class folders"


def test_pictures_of_a_phone_that_are_not_read_are_told(tmp_path: Path, write_image: Write) -> None:
    write_image("cat/1.png")
    for name in ("cat/IMG_1.HEIC", "cat/2.avif", "cat/notes.txt"):
        (tmp_path / name).touch()
    found = list_labeled(tmp_path).ignored
    assert found == Ignored(not_images=1, unread=2)
    assert "2 in a format that is not read, such as HEIC (save them as JPEG or PNG)" in str(found)


def test_links_that_loop_or_lead_outside_are_not_followed(tmp_path: Path, write_image: Write) -> None:
    root = tmp_path / "data"
    for name in ("data/cat/1.png", "data/cat/in/2.png", "data/dog/3.png", "secret/s.png"):
        write_image(name)
    (root / "cat" / "loop").symlink_to("..")
    (root / "cat" / "in" / "self").symlink_to(".")
    (root / "cat" / "twice").symlink_to("in")
    (root / "cat" / "me.png").symlink_to("me.png")
    (root / "cat" / "s.png").symlink_to(tmp_path / "secret" / "s.png")
    (root / "cat" / "host.png").symlink_to("/etc/hostname")
    (root / "secret").symlink_to(tmp_path / "secret")
    (root / "cat" / "gone.png").symlink_to("nothing.png")
    found = list_labeled(root)
    assert found.names == ("cat/1.png", "cat/in/2.png", "dog/3.png")
    assert found.classes == ("cat", "dog")
    assert found.ignored == Ignored(outside_links=3, broken_links=4)
    assert "3 behind links that lead outside (--follow-links follows them)" in str(found.ignored)
    followed = list_labeled(root, follow_links=True)
    assert followed.names == ("cat/1.png", "cat/host.png", "cat/s.png", "cat/in/2.png", "dog/3.png", "secret/s.png")
    assert followed.ignored == Ignored(broken_links=4)


@pytest.fixture
def snapshot(tmp_path: Path, write_image: Write) -> Path:
    """Images as Hugging Face's cache keeps them, and a class folder on another disk, as people have it."""
    for number in range(12):
        write_image(f"blobs/{number}", number)
        link = tmp_path / "snapshot" / ("cat" if number % 2 else "dog") / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../blobs/{number}")
    write_image("disk/bird/1.png", 20)
    write_image("disk/bird/2.png", 21)
    (tmp_path / "snapshot" / "bird").symlink_to(tmp_path / "disk" / "bird")
    return tmp_path / "snapshot"


def test_links_to_another_disk_can_be_followed_and_the_message_says_how(snapshot: Path) -> None:
    with pytest.raises(InvalidDatasetError, match=r"ignored 13 behind links .*--follow-links follows them"):
        list_labeled(snapshot)
    found = list_labeled(snapshot, follow_links=True)
    assert found.counts() == {"bird": 2, "cat": 6, "dog": 6}
    assert found.ignored == Ignored()
    sources = list(directory_sources(str(snapshot), Counter(), follow_links=True))
    assert [source.place for source in sources] == list(places(str(snapshot), Counter(), follow_links=True))
    assert len([source.read() for source in sources]) == 14


@pytest.mark.parametrize("flag", [["--follow-links"], ["--follow-links", "true"]])
def test_commands_follow_links_if_they_are_told_to(snapshot: Path, tmp_path: Path, flag: list[str]) -> None:
    parts = ("--train-dir", tmp_path / "train", "--val-dir", tmp_path / "val")
    told = run_main("split", "--image-dir", snapshot, *parts, "--fraction", 0.5, *flag)
    assert (told.returncode, told.stdout.count("7 images of 3 classes")) == (0, 2), told.stderr
    assert not any(path.is_symlink() for path in (tmp_path / "train").rglob("*"))
    told = run_main("convert", "--source", snapshot, "--output-dir", tmp_path / "out", *flag)
    assert told.stdout.startswith("14 images of 3 classes"), told.stderr
    told = run_main("transform", "--image-dir", snapshot, "--output-dir", tmp_path / "small", *flag)
    assert told.stdout.startswith("14 images"), told.stderr


def test_a_link_that_is_followed_leads_to_images_only(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("private")
    (snapshot / "cat" / "key.png").symlink_to(tmp_path / "key")
    parts = ("--train-dir", tmp_path / "train", "--val-dir", tmp_path / "val", "--fraction", 0.5)
    told = run_main("split", "--image-dir", snapshot, *parts, "--follow-links")
    assert (told.returncode, (tmp_path / "train").exists()) == (2, False)
    assert "cat/key.png is not copied" in told.stderr


def test_links_inside_are_followed(tmp_path: Path, write_image: Write) -> None:
    write_image("data/pool/1.png")
    (tmp_path / "data" / "cat").mkdir()
    (tmp_path / "data" / "cat" / "x.png").symlink_to("../pool/1.png")
    (tmp_path / "data" / "dog").symlink_to("pool")
    (tmp_path / "link").symlink_to("data")
    found = list_labeled(tmp_path / "link")
    assert found.names == ("cat/x.png", "dog/1.png", "pool/1.png")
    assert all(read_bytes(path) for path in found.paths)


def test_any_name_works(tmp_path: Path, write_image: Write) -> None:
    names = [
        "a b.png",
        "new\nline.png",
        "größe.png",
        "grö\u0308ße.png",
        "猫.png",
        os.fsdecode(b"\xff\xfe.png"),
        "*'\".png",
    ]
    for name in names:
        write_image(f"my class é\n/{name}")
    found = list_labeled(tmp_path)
    assert sorted(found.names) == sorted(f"my class é\n/{name}" for name in names)
    assert all(read_bytes(path) for path in found.paths)


def test_says_why_a_directory_cannot_be_used(tmp_path: Path, write_image: Write) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "barren" / "cat").mkdir(parents=True)
    (tmp_path / "barren" / "cat" / "note.txt").write_text("x")
    reasons = {"missing": "does not exist", "file": "not a directory", "empty": "empty directory"}
    for name, reason in reasons.items():
        for list_it in (list_labeled, Walk):
            with pytest.raises(InvalidDatasetError, match=f"{name}: {reason}"):
                list_it(tmp_path / name)
    with pytest.raises(InvalidDatasetError) as caught:
        list_labeled(tmp_path / "barren")
    assert "ignored 1 without an image's extension" in caught.value.message
    assert ".jpeg" in caught.value.message


def test_flat_images_have_no_labels(tmp_path: Path, write_image: Write) -> None:
    write_image("1.png")
    with pytest.raises(NotLabeledDatasetError, match="no class folders"):
        list_labeled(tmp_path)
    assert list(Walk(tmp_path).images("")) == ["1.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason=needs("another user", "root reads everything"))
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, write_image: Write) -> None:
    write_image("cat/in/1.png")
    (tmp_path / "cat" / "in").chmod(0)
    with pytest.raises(InvalidDatasetError, match="in: cannot be listed .permission denied"):
        list_labeled(tmp_path)


def test_lists_images_for_scoring_lazily(tmp_path: Path, write_image: Write) -> None:
    for name in ("b.png", "a.png", "x/2.png", "x/y/1.png", ".hidden.png", "x/note.txt"):
        write_image(name)
    (tmp_path / "x" / "loop").symlink_to("..")
    images = Walk(tmp_path).images("")
    assert next(images) == "a.png"
    write_image("x/late.png")
    assert list(images) == ["b.png", "x/2.png", "x/late.png", "x/y/1.png"]


def test_survives_folders_nested_deeper_than_python_recurses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = 1100
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("1.png").write_bytes(b"x")
    try:
        assert len(list(Walk(tmp_path).images(""))) == 1
    finally:  # pytest cannot remove it, for shutil.rmtree recurses
        os.remove("1.png")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")


# Lists a directory as scoring does; prints how many images it has, and the MiB that this took.
LISTER = """
import resource, sys
from mlflow_resnet.images.directories import Walk
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
print(sum(1 for _ in Walk(sys.argv[1]).images("")), peak() - before)
"""


def make_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        os.close(os.open(folder / f"{number * 7919 % count:07d}.jpg", os.O_CREAT))


@pytest.mark.slow
@pytest.mark.thorough
def test_lists_a_hundred_thousand_images_of_one_folder_in_order(tmp_path: Path) -> None:
    make_files(tmp_path / "many", 100_001)
    names = list(Walk(tmp_path).images(""))
    assert len(names) == 100_001
    assert all(name < following for name, following in pairwise(names))
    assert list_labeled(tmp_path).counts() == {"many": 100_001}


@pytest.mark.slow
@pytest.mark.thorough
def test_lists_a_million_images_of_one_folder_in_constant_memory(tmp_path: Path) -> None:
    make_files(tmp_path / "many", 1_000_000)
    done = subprocess.run([sys.executable, "-c", LISTER, str(tmp_path)], capture_output=True, text=True, check=True)
    count, mebibytes = done.stdout.split()
    assert count == "1000000"
    assert float(mebibytes) < 50  # all names together would take 100


def test_sorts_names_that_do_not_fit_into_memory() -> None:
    names = ["b", "a\nb", "a", "\udcff", "ä", 'q"', "a\\"]
    for at_once in (1, 2, 3, 7, 8):
        assert list(sort_names(names, at_once)) == sorted(names)
