from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from made_images import chunk, encoded, png, tiff
from PIL import Image

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decoding.appearance import Region, rgb
from mlflow_resnet.images.decoding.decode import decode, read_region

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def whole(width: int, height: int) -> Region:
    return 0, 0, width, height


def first_pixel(content: bytes) -> tuple[int, int, int]:
    picture = decode(content)
    assert picture.mode == "RGB"
    return picture.getpixel((0, 0))  # type: ignore[return-value]


def test_transparent_pixels_are_seen_on_white() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, *RED])
    half = (255, 127, 127)
    assert first_pixel(encoded(Image.new("RGBA", (2, 2), (*BLUE, 0)), "PNG")) == WHITE
    assert first_pixel(encoded(Image.new("RGBA", (2, 2), (*RED, 128)), "PNG")) == half
    assert first_pixel(encoded(Image.new("LA", (2, 2), (0, 128)), "PNG")) == (127, 127, 127)
    assert first_pixel(encoded(palette, "PNG")) == RED
    assert first_pixel(encoded(palette, "PNG", transparency=1)) == WHITE
    assert first_pixel(encoded(palette, "PNG", transparency=b"\xff\x80")) == half
    assert first_pixel(encoded(palette, "GIF", transparency=1)) == WHITE
    assert first_pixel(encoded(Image.new("RGB", (2, 2), RED), "PNG", transparency=RED)) == WHITE
    assert first_pixel(encoded(Image.new("RGB", (2, 2), RED), "PNG", transparency=BLUE)) == RED
    assert first_pixel(encoded(Image.new("L", (2, 2), 7), "PNG", transparency=7)) == WHITE
    assert first_pixel(encoded(Image.new("RGBA", (2, 2), (*BLUE, 0)), "WEBP", lossless=True)) == WHITE


@pytest.mark.parametrize(("mode", "value"), [("PA", (0, 0)), ("La", (0, 0)), ("RGBa", (0, 0, 0, 0)), ("LA", (9, 0))])
def test_modes_with_alpha_that_few_files_have_are_seen_on_white(mode: str, value: tuple[int, ...]) -> None:
    assert rgb(Image.new(mode, (1, 1), value)).getpixel((0, 0)) == WHITE


def test_16_bit_pictures_keep_their_whole_range() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    pgm = b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes()
    little, big = (tiff(16, 16, ramp.astype(f"{end}u2").tobytes(), {258: [16]}, end) for end in "<>")
    for content in (encoded(Image.fromarray(ramp), "PNG"), pgm, little, big):
        assert np.array_equal(np.asarray(decode(content))[..., 1], expected)


def test_a_16_bit_picture_has_a_transparent_brightness() -> None:
    rows = b"".join(b"\0" + struct.pack(">HH", 1000, 2570) for _ in range(2))
    picture = decode(png(2, 2, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000))))
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((1, 0)) == (10, 10, 10)


def test_a_12_bit_tiff_keeps_its_whole_range() -> None:
    content = tiff(2, 1, b"\xff\xf8\x00", {258: [12]})  # 4095, 2048
    assert [decode(content).getpixel((x, 0)) for x in (0, 1)] == [WHITE, (128, 128, 128)]


def test_pictures_of_unknown_brightness_range_are_refused() -> None:
    integers, reals = np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32)
    pfm = b"Pf 1 1 -1.0\n" + bytes(4)
    for content in (encoded(Image.fromarray(integers), "TIFF"), encoded(Image.fromarray(reals), "TIFF")):
        with pytest.raises(InvalidImageError, match="brightness range"):
            decode(content)
    with pytest.raises(InvalidImageError, match="supported format"):
        decode(pfm)


def test_color_models_become_rgb() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert first_pixel(encoded(cmyk, "TIFF")) == RED
    assert np.abs(np.subtract(first_pixel(encoded(cmyk, "JPEG", quality=100)), RED)).max() <= 3
    assert first_pixel(encoded(Image.new("L", (4, 4), 77), "JPEG", quality=100)) == (77, 77, 77)
    assert first_pixel(encoded(Image.new("1", (9, 9), 1), "PNG")) == WHITE
    assert first_pixel(encoded(Image.new("1", (9, 9), 1), "PPM")) == WHITE
    assert min(first_pixel(encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"))) >= 254
    assert first_pixel(encoded(Image.new("RGB", (4, 4), BLUE), "BMP")) == BLUE
    assert np.abs(np.subtract(first_pixel(encoded(Image.new("YCbCr", (4, 4), (76, 85, 255)), "TIFF")), RED)).max() <= 3


def test_a_cmyk_jpeg_is_decoded_smaller_too() -> None:
    content = encoded(Image.new("CMYK", (640, 640), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.asarray(read_region(content, whole, (64, 64))).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    assert first_pixel(content) == RED


def test_a_stereo_photo_is_its_first_picture() -> None:
    content = encoded(Image.new("RGB", (64, 64), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert np.abs(np.subtract(first_pixel(content), RED)).max() <= 3
    assert np.abs(np.asarray(read_region(content, whole, (8, 8))).astype(int) - RED).max() <= 3
