from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_images import encoded, photo
from PIL import Image

from mlflow_resnet.errors import InvalidDatasetError, OutputError
from mlflow_resnet.images import archives, decode
from mlflow_resnet.images import convert as converting
from mlflow_resnet.images.convert import convert
from mlflow_resnet.images.directories import Ignored

GOOD = encoded(photo(4, 3), "PNG")
Files = dict[str, bytes]
TWO_CLASSES: Files = {"cat/1.png": GOOD, "cat/deep/2.png": GOOD, "dog/a b.png": GOOD}


def as_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, files: Files, *links: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for link in links:
            archive.addfile(link)
    return path


def tree(path: Path) -> set[str]:
    return {str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file()}


MAKERS = {
    "data": as_folder,
    "data.zip": as_zip,
    "DATA.ZIP": as_zip,
    "data.tar": as_tar,
    "data.tar.gz": as_tar,
    "data.tgz": as_tar,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("wrap", ["", "wrapper/", "a/a/"])
def test_makes_an_image_directory_from_a_folder_or_archive(tmp_path: Path, kind: str, wrap: str) -> None:
    files = {f"{wrap}{name}": content for name, content in TWO_CLASSES.items()}
    files |= {"__MACOSX/cat/._1.png": GOOD, f"{wrap}cat/.DS_Store": b"x", f"{wrap}readme.txt": b"x"}
    result = convert(MAKERS[kind](tmp_path / kind, files), tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert (tmp_path / "out" / "cat" / "1.png").read_bytes() == GOOD
    assert (result.images, result.classes, result.unreadable) == (3, ("cat", "dog"), {})
    assert result.ignored == Ignored(hidden=2, not_images=1)


@pytest.mark.parametrize("kind", ["data", "data.zip", "data.tgz"])
def test_unreadable_images_are_left_out_and_listed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = TWO_CLASSES | {"cat/cut.png": GOOD[:-30], "eel/empty.jpg": b"", "cat/big.png": bytes(5000)}
    source = MAKERS[kind](tmp_path / kind, files)
    for module in (archives, converting, decode):
        monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 4000)
    result = convert(source, tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert result.classes == ("cat", "dog", "eel")
    assert {name: reason.split(" (")[0] for name, reason in result.unreadable.items()} == {
        "cat/cut.png": "truncated or damaged",
        "eel/empty.jpg": "empty file",
        "cat/big.png": "over the limit of 0 MiB for one image",
    }


@pytest.mark.parametrize("kind", ["data", "data.zip", "data.tar"])
def test_a_flat_folder_stays_flat(tmp_path: Path, kind: str) -> None:
    result = convert(MAKERS[kind](tmp_path / kind, {"1.png": GOOD, "2.png": GOOD}), tmp_path / "out")
    assert tree(tmp_path / "out") == {"1.png", "2.png"}
    assert (result.images, result.classes) == (2, ())


def test_a_single_class_keeps_its_name(tmp_path: Path) -> None:
    assert convert(as_folder(tmp_path / "data", {"cat/1.png": GOOD}), tmp_path / "out").classes == ("cat",)


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/tmp/evil.png", "..\\evil.png", "\\evil.png"])
@pytest.mark.parametrize("kind", ["data.zip", "data.tar"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    source = MAKERS[kind](tmp_path / "in" / kind, TWO_CLASSES | {name: GOOD})
    with pytest.raises(InvalidDatasetError, match="leads out of the archive"):
        convert(source, tmp_path / "in" / "out")
    assert tree(tmp_path) == {f"in/{kind}"}


def test_links_and_devices_in_archives_are_not_made(tmp_path: Path) -> None:
    links = []
    for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("f.png", tarfile.FIFOTYPE)):
        link = tarfile.TarInfo(f"cat/{name}")
        link.type, link.linkname = kind, "/etc/hostname"
        links.append(link)
    result = convert(as_tar(tmp_path / "data.tar", TWO_CLASSES, *links), tmp_path / "out")
    assert tree(tmp_path / "out") == set(TWO_CLASSES)
    assert result.ignored == Ignored(outside_links=2, not_images=1)

    source = as_zip(tmp_path / "data.zip", TWO_CLASSES)
    with zipfile.ZipFile(source, "a") as archive:
        info = zipfile.ZipInfo("cat/s.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/hostname")
    assert convert(source, tmp_path / "out2").ignored == Ignored(outside_links=1)


def test_names_that_clash_get_a_number(tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("cat/1.png", "cat/1.png", "cat/1.PNG", "dog/1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(GOOD)
            archive.addfile(member, io.BytesIO(GOOD))
    assert convert(path, tmp_path / "out").images == 4
    assert tree(tmp_path / "out") == {"cat/1.png", "cat/1-2.png", "cat/1-3.PNG", "dog/1.png"}


def test_a_file_named_like_a_folder_is_one_sentence(tmp_path: Path) -> None:
    source = as_zip(tmp_path / "data.zip", {"cat/x.png": GOOD, "cat/x.png/1.png": GOOD})
    with pytest.raises(OutputError, match="cannot be written"):
        convert(source, tmp_path / "out")
    assert tree(tmp_path) == {"data.zip"}


@pytest.mark.parametrize("kind", ["data.zip", "data.tar", "data.tar.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.8])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    big = encoded(Image.fromarray(noise), "PNG")
    source = MAKERS[kind](tmp_path / kind, {f"cat/{index}.png": big for index in range(4)})
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InvalidDatasetError, match="damaged or unreadable archive") as caught:
        convert(source, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert tree(tmp_path) == {kind}


def test_a_tar_cut_between_two_members_is_damaged(tmp_path: Path) -> None:
    source = as_tar(tmp_path / "data.tar", TWO_CLASSES)
    source.write_bytes(source.read_bytes()[: 2 * 512])  # the first header and its content
    with pytest.raises(InvalidDatasetError, match="unexpected end of data"):
        convert(source, tmp_path / "out")


def test_an_archive_over_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("data.zip", "data.tar"):
        source = MAKERS[kind](tmp_path / kind, TWO_CLASSES | {"zeros.txt": bytes(10**6)})
        for limit, value, reason in (
            ("MAX_ARCHIVE_BYTES", 10**6, "unpacks to more than"),
            ("MAX_MEMBERS", 3, "over the limit of 3 files"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(archives, limit, value)
                with pytest.raises(InvalidDatasetError, match=reason):
                    convert(source, tmp_path / "out")


def test_says_why_a_source_cannot_be_used(tmp_path: Path) -> None:
    as_folder(tmp_path, {"data.rar": b"Rar!", "texts/a.txt": b"x", "bad/cat/1.png": b"x"})
    for name, reason in {
        "data.rar": "not a directory nor an archive .*.zip, .tar, .tar.gz, .tgz",
        "missing.zip": "does not exist",
        "texts": "no images .ignored 1 without.*Supported extensions: .bmp",
        "bad": "none of its 1 images can be read: cat/1.png .not an image",
    }.items():
        with pytest.raises(InvalidDatasetError, match=f"{name}: {reason}"):
            convert(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_with_something_in_it_is_kept(tmp_path: Path) -> None:
    as_folder(tmp_path, {"data/cat/1.png": GOOD, "out/mine": b"x"})
    with pytest.raises(OutputError, match="out: is not empty"):
        convert(tmp_path / "data", tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine"}
