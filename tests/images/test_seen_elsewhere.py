"""What decodes, decodes right: as a browser shows it, or ImageMagick where browsers do not know the format.

Two differences are meant. Browsers manage colors, and we do not: see `colors`. Neither of them turns a WebP by its EXIF
orientation, and we turn every format.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import struct
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from made_images import TIFF_DATA, chunk, encoded, photo, png, tiff, with_orientation
from PIL import Image
from tiers import needs

from mlflow_resnet.images.decoding.decode import decode

PICTURE = photo(64, 48)
SIXTEEN_BITS = Image.fromarray(np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64))
TRANSPARENT = PICTURE.copy()
TRANSPARENT.putalpha(Image.linear_gradient("L").resize((64, 48)))
MODES = {
    "RGB": PICTURE,
    "L": PICTURE.convert("L"),
    "1": PICTURE.convert("1"),
    "P": PICTURE.convert("P", palette=Image.Palette.ADAPTIVE),
    "RGBA": TRANSPARENT,
    "LA": TRANSPARENT.convert("LA"),
    "16 bits": SIXTEEN_BITS,
}
CMYK = Image.merge("CMYK", [Image.linear_gradient("L").rotate(90 * n).resize((64, 48)) for n in range(4)])
FRAMES = {"save_all": True, "append_images": [PICTURE.rotate(180)], "duration": 100_000}
SMALL_FRAME = encoded(MODES["P"].resize((32, 24)), "GIF")
NOISE = np.random.default_rng(0)
WIDTH, HEIGHT = 16, 12  # of the pictures of noise
PLANES = [TIFF_DATA + n * WIDTH * HEIGHT for n in range(3)]


def noise(count: int) -> bytes:
    return NOISE.integers(0, 256, count, dtype=np.uint8).tobytes()


def png_of_noise(bits: int, color: int, transparency: bytes = b"") -> bytes:
    """A PNG of color type `color`: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA."""
    row_bytes = WIDTH * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] // 8
    rows = b"".join(b"\0" + noise(row_bytes) for _ in range(HEIGHT))
    extra = chunk(b"PLTE", noise(3 * 2**bits)) if color == 3 else b""
    return png(WIDTH, HEIGHT, bits, color, rows, extra + (chunk(b"tRNS", transparency) if transparency else b""))


def png_with_a_transparent_color(bits: int) -> bytes:
    """That of the first pixel."""
    colors = NOISE.integers(0, 2**bits, (HEIGHT, WIDTH, 3))
    rows = b"".join(b"\0" + row.astype(np.uint8 if bits == 8 else ">u2").tobytes() for row in colors)
    return png(WIDTH, HEIGHT, bits, 2, rows, chunk(b"tRNS", struct.pack(">HHH", *colors[0, 0])))


def tiff_of_noise(bits: int, photometric: int, samples: int = 1, **tags: list[int]) -> bytes:
    data = noise(WIDTH * HEIGHT * bits * samples // 8)
    usual = {258: [bits] * samples, 262: [photometric], 277: [samples]}
    return tiff(WIDTH, HEIGHT, data, usual | {int(name[1:]): values for name, values in tags.items()})


def palette(bits: int) -> list[int]:
    return NOISE.integers(0, 65536, 3 * 2**bits).tolist()


def levels(count: int, brightest: int) -> bytes:
    values = NOISE.integers(0, brightest + 1, count)
    return values.astype(np.uint8 if brightest < 256 else ">u2").tobytes()


OF_BROWSERS = {
    **{f"PNG {mode}": encoded(image, "PNG") for mode, image in MODES.items()},
    **{f"PNG orientation {n}": with_orientation(PICTURE, n, "PNG") for n in range(1, 9)},
    **{f"PNG gray {bits}": png_of_noise(bits, 0) for bits in (1, 2, 4, 8, 16)},
    **{
        f"PNG gray {bits} with a transparent level": png_of_noise(bits, 0, struct.pack(">H", 2**bits // 2))
        for bits in (1, 2, 4, 8)
    },
    **{f"PNG palette {bits}": png_of_noise(bits, 3) for bits in (1, 2, 4, 8)},
    **{f"PNG palette {bits} with alpha": png_of_noise(bits, 3, noise(2**bits - 1)) for bits in (1, 2, 4, 8)},
    **{f"PNG type {color}, {bits} bits": png_of_noise(bits, color) for color in (2, 4, 6) for bits in (8, 16)},
    **{f"PNG RGB {bits} with a transparent color": png_with_a_transparent_color(bits) for bits in (8, 16)},
    **{f"WEBP {mode}": encoded(MODES[mode], "WEBP", lossless=True) for mode in ("RGB", "RGBA")},
    **{f"BMP {mode}": encoded(MODES[mode], "BMP") for mode in ("RGB", "L", "1", "P", "RGBA")},
    **{f"JPEG {mode}": encoded(MODES[mode], "JPEG", quality=95) for mode in ("RGB", "L")},
    **{f"JPEG orientation {n}": with_orientation(PICTURE, n, "JPEG", quality=95) for n in range(1, 9)},
    **{f"JPEG subsampled {n}": encoded(PICTURE, "JPEG", quality=95, subsampling=n) for n in range(3)},
    "JPEG progressive": encoded(PICTURE, "JPEG", quality=95, progressive=True),
    "JPEG with restarts": encoded(PICTURE, "JPEG", quality=95, restart_marker_blocks=2),
    "JPEG stored as RGB": encoded(PICTURE, "JPEG", quality=95, keep_rgb=True),
    "JPEG CMYK": encoded(CMYK, "JPEG", quality=95),
    "GIF P": encoded(MODES["P"], "GIF"),
    "GIF transparent": encoded(MODES["P"], "GIF", transparency=3),
    "GIF interlaced": encoded(MODES["P"], "GIF", interlace=1),
    "GIF with a small frame": SMALL_FRAME[:6] + struct.pack("<HH", 64, 48) + SMALL_FRAME[10:],
    **{f"{kind} animated": encoded(PICTURE.convert("P"), kind, **FRAMES) for kind in ("GIF", "PNG")},
    "WEBP animated": encoded(PICTURE, "WEBP", lossless=True, **FRAMES),
    "WEBP lossy": encoded(PICTURE, "WEBP", quality=95),
}
OF_IMAGEMAGICK = {
    **{f"TIFF {mode}": encoded(image, "TIFF") for mode, image in MODES.items() if mode != "LA"},
    **{f"TIFF {kind}": encoded(PICTURE, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate")},
    **{f"TIFF orientation {n}": with_orientation(PICTURE, n, "TIFF") for n in range(1, 9)},
    "TIFF CMYK": encoded(CMYK, "TIFF"),
    "TIFF JPEG": encoded(PICTURE, "TIFF", compression="jpeg"),
    **{f"TIFF gray {bits}": tiff_of_noise(bits, 1) for bits in (1, 2, 4, 8, 12, 16)},
    **{f"TIFF gray {bits}, white is zero": tiff_of_noise(bits, 0) for bits in (1, 8, 16)},
    **{f"TIFF palette {bits}": tiff_of_noise(bits, 3, t320=palette(bits)) for bits in (4, 8)},
    **{f"TIFF RGB {bits}": tiff_of_noise(bits, 2, 3) for bits in (8, 16)},
    **{f"TIFF RGBA {bits}": tiff_of_noise(bits, 2, 4, t338=[2]) for bits in (8, 16)},
    **{f"TIFF CMYK {bits}": tiff_of_noise(bits, 5, 4) for bits in (8, 16)},
    "TIFF gray with alpha": tiff_of_noise(8, 1, 2, t338=[2]),
    "TIFF planes": tiff_of_noise(8, 2, 3, t284=[2], t273=PLANES, t279=[WIDTH * HEIGHT] * 3),
    **{f"PPM {mode}": encoded(MODES[mode], "PPM") for mode in ("RGB", "L", "1", "16 bits")},
    **{f"PPM gray to {n}": f"P5 16 12 {n}\n".encode() + levels(192, n) for n in (100, 255, 4095, 65535)},
    **{f"PPM RGB to {n}": f"P6 16 12 {n}\n".encode() + levels(576, n) for n in (100, 255, 1023, 65535)},
    "PPM text": b"P3 2 1 255\n0 100 255 # a comment\n9 8 7\n",
}
TOLERANCE = {"JPEG CMYK": 4, "JPEG subsampled": 4, "WEBP lossy": 4, "PNG RGBA": 1, "PNG LA": 1, "WEBP RGBA": 1}
# Draws each picture on white and writes its size and RGBA values into the page.
PAGE = """<!doctype html>IMAGES<pre id="seen"></pre><script>
addEventListener("load", () => {
  const seen = {};
  for (const image of document.images) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    seen[image.alt] = [canvas.width, canvas.height, ...context.getImageData(0, 0, canvas.width, canvas.height).data];
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


@pytest.fixture(scope="module")
def seen_by_a_browser(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip(needs("Chromium", "apt-get install chromium"))
    folder = tmp_path_factory.mktemp("browser")
    images = [
        f'<img alt="{name}" src="data:image/{name.split()[0].lower()};base64,{base64.b64encode(content).decode()}">'
        for name, content in OF_BROWSERS.items()
    ]
    page = folder / "page.html"
    page.write_text(PAGE.replace("IMAGES", "".join(images)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", f"--user-data-dir={folder}"]
    command = [browser, *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    pictures = json.loads(unescape(found[1]))
    return {
        name: np.array(values, dtype=int).reshape(height, width, 4)[..., :3]
        for name, (width, height, *values) in pictures.items()
    }


@pytest.mark.process
@pytest.mark.parametrize("name", OF_BROWSERS)
def test_a_picture_is_what_a_browser_shows(name: str, seen_by_a_browser: dict[str, np.ndarray]) -> None:
    ours = np.asarray(decode(OF_BROWSERS[name]), dtype=int)
    assert ours.shape == seen_by_a_browser[name].shape
    assert np.abs(ours - seen_by_a_browser[name]).max() <= TOLERANCE.get(name, 2)


@pytest.fixture(scope="module")
def imagemagick() -> str:
    """The command, which is `convert` until version 7 and may be something else then."""
    for command in filter(None, map(shutil.which, ("magick", "convert-im6.q16", "convert"))):
        if "ImageMagick" in subprocess.run([command, "-version"], capture_output=True, text=True).stdout:
            return command
    pytest.skip(needs("ImageMagick", "apt-get install imagemagick"))


@pytest.mark.process
@pytest.mark.parametrize("name", OF_IMAGEMAGICK)
def test_a_picture_is_what_imagemagick_shows(name: str, imagemagick: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{name.split()[0].lower()}"
    path.write_bytes(OF_IMAGEMAGICK[name])
    options = ["-auto-orient", "-background", "white", "-alpha", "remove", "-colorspace", "sRGB", "-depth", "8"]
    done = subprocess.run([imagemagick, str(path), *options, "ppm:-"], capture_output=True, check=True)
    theirs = np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"), dtype=int)
    ours = np.asarray(decode(OF_IMAGEMAGICK[name]), dtype=int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2
