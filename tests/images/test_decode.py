from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_images import encoded, photo, with_orientation
from PIL import Image

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decoding import decode as decoding
from mlflow_resnet.images.decoding.appearance import Region
from mlflow_resnet.images.decoding.decode import decode, looks_like_image, read_bytes, read_region

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def whole(width: int, height: int) -> Region:
    return 0, 0, width, height


# What a person sees of the stored rows "AB", "CD", "EF" (EXIF 2.32: where the 0th row and column are).
SEEN = {
    1: "AB CD EF",
    2: "BA DC FE",
    3: "FE DC BA",
    4: "EF CD AB",
    5: "ACE BDF",
    6: "ECA FDB",
    7: "FDB ECA",
    8: "BDF ACE",
}
LETTERS = dict(zip("ABCDEF", (RED, GREEN, BLUE, WHITE, (0, 0, 0), (255, 255, 0)), strict=True))


def letters(rows: str, block: int = 1) -> Image.Image:
    pixels = np.array([[LETTERS[letter] for letter in row] for row in rows.split()], dtype=np.uint8)
    return Image.fromarray(pixels.repeat(block, axis=0).repeat(block, axis=1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sees_a_picture_upright(orientation: int, kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = with_orientation(letters("AB CD EF"), orientation, kind, **lossless)
    expected = np.asarray(letters(SEEN[orientation]))
    assert np.array_equal(np.asarray(decode(content)), expected)
    size = (expected.shape[1], expected.shape[0])
    assert np.array_equal(np.asarray(read_region(content, whole, size)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picks_the_region_a_person_sees_in_a_jpeg_decoded_smaller(orientation: int) -> None:
    """Each letter is 160 pixels wide; the middle of one, off the axis, is drawn at 1/8."""
    content = with_orientation(letters("AB CD EF", 160), orientation, "JPEG", quality=95, subsampling=0)
    rows = SEEN[orientation].split()
    for y, row in enumerate(rows):
        for x, letter in enumerate(row):
            region = (x * 160 + 20, y * 160 + 10, x * 160 + 148, y * 160 + 150)
            sizes: list[tuple[int, int]] = []

            def choose(width: int, height: int, region: Region = region, sizes: Any = sizes) -> Region:
                sizes.append((width, height))
                return region

            seen = read_region(content, choose, (16, 8))
            assert sizes == [(len(row) * 160, len(rows) * 160)]
            assert seen.size == (16, 8)
            assert np.abs(np.asarray(seen).astype(int) - LETTERS[letter]).max() <= 6


@pytest.mark.parametrize("size", [(1601, 1203), (1599, 1207), (900, 450)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_smaller_looks_as_one_decoded_in_full(size: tuple[int, int], orientation: int) -> None:
    content = with_orientation(photo(*size), orientation, "JPEG", quality=95)
    region = (31.5, 17.25, 433.5, 419.25)
    full = decode(content).resize((100, 100), Image.Resampling.BILINEAR, box=region)
    difference = np.abs(
        np.asarray(read_region(content, lambda w, h: region, (100, 100))).astype(int) - np.asarray(full)
    )
    assert difference.max() <= 8
    assert difference.mean() < 1


def test_a_jpeg_is_never_decoded_smaller_than_the_target() -> None:
    content = encoded(photo(800, 801), "JPEG")
    for target, scale in (
        ((100, 100), 8),
        ((101, 100), 4),
        ((100, 101), 4),
        ((200, 200), 4),
        ((201, 1), 2),
        ((401, 2), 1),
    ):
        image = decoding._parse_headers(content)
        with decoding._draft(image, content, (800, 801), target) as found:
            assert found == scale
        assert image.width >= target[0]
        assert image.height >= target[1]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_whole_jpeg_is_decoded_smaller_but_with_the_shorter_edge_asked_for(orientation: int) -> None:
    content = with_orientation(photo(800, 641), orientation, "JPEG", quality=95)
    for shorter_edge, size in (
        (80, (100, 81)),
        (81, (200, 161)),
        (200, (400, 321)),
        (400, (800, 641)),
        (900, (800, 641)),
    ):
        seen = decode(content, shorter_edge)
        assert seen.size == (size if orientation == 1 else size[::-1])
        expected = decode(content).resize(seen.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(expected)).mean() < 1.5
    png = encoded(photo(80, 64), "PNG")
    assert np.array_equal(np.asarray(decode(png, 8)), np.asarray(decode(png)))


def test_a_png_is_resampled_from_all_its_pixels() -> None:
    picture = photo(640, 480)
    expected = picture.resize((80, 60), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(read_region(encoded(picture, "PNG"), whole, (80, 60))), np.asarray(expected))


def test_a_region_past_the_edge_is_cut_and_an_empty_one_is_the_callers_error() -> None:
    content = encoded(photo(10, 8), "PNG")
    assert np.array_equal(
        np.asarray(read_region(content, lambda w, h: (-1e-9, 0, w + 1e-9, h), (10, 8))), np.asarray(decode(content))
    )
    with pytest.raises(ValueError, match="10x8"):
        read_region(content, lambda w, h: (5, 5, 5, 8), (4, 4))
    with pytest.raises(ZeroDivisionError):
        read_region(content, lambda w, h: (1 / 0, 0, w, h), (4, 4))


def test_an_image_is_told_from_other_bytes() -> None:
    for kind in ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF"):
        assert looks_like_image(encoded(photo(8, 8), kind)), kind
    for other in (
        b"",
        b"/data/cat.jpg",
        b"BMW/1.jpg and more bytes",
        b"P1/cat.jpg",
        b"RIFF1234WAVE",
        b"iVBORw0KGgo=",
        b"II*",
    ):
        assert not looks_like_image(other), other


def test_reads_only_regular_files_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with open(tmp_path / "big.jpg", "wb") as file:
        file.truncate(decoding.MAX_IMAGE_BYTES + 1)
    reasons = {
        "empty.jpg": "empty file",
        "fifo.jpg": "not a regular file",
        "loop.jpg": "symbolic links",
        "big.jpg": "over the limit of 64 MiB",
        "missing.jpg": "no such file",
        "nul\0.jpg": "not a valid path",
        ".": "is a directory",
        "/dev/zero": "not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(InvalidImageError) as caught:
            read_bytes(tmp_path / name)
        assert reason in caught.value.message
        assert str(tmp_path) not in caught.value.message


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    caught: list[str] = []

    def read() -> None:
        try:
            read_bytes(tmp_path / "fifo.jpg")
        except InvalidImageError as error:
            caught.append(error.message)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert caught == ["not a regular file"]


def test_reads_what_is_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(b"content")
    assert read_bytes(tmp_path / "a b.jpg") == b"content"
