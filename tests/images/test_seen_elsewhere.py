"""What decodes, decodes right: as a browser shows it, or ImageMagick where browsers do not know the format."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from made_images import encoded, photo, with_orientation
from PIL import Image

from mlflow_resnet.images.decode import decode

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
OF_BROWSERS = {
    **{f"PNG {mode}": encoded(image, "PNG") for mode, image in MODES.items()},
    **{f"WEBP {mode}": encoded(MODES[mode], "WEBP", lossless=True) for mode in ("RGB", "RGBA")},
    **{f"BMP {mode}": encoded(MODES[mode], "BMP") for mode in ("RGB", "L", "1", "P")},
    **{f"JPEG {mode}": encoded(MODES[mode], "JPEG", quality=95) for mode in ("RGB", "L")},
    **{f"JPEG orientation {n}": with_orientation(PICTURE, n, "JPEG", quality=95) for n in range(1, 9)},
    "JPEG progressive": encoded(PICTURE, "JPEG", quality=95, progressive=True),
    "JPEG subsampled": encoded(PICTURE, "JPEG", quality=95, subsampling=2),
    "JPEG CMYK": encoded(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "GIF P": encoded(MODES["P"], "GIF"),
    "GIF transparent": encoded(MODES["P"], "GIF", transparency=3),
    "PNG transparent color": encoded(MODES["L"], "PNG", transparency=100),
    "WEBP lossy": encoded(PICTURE, "WEBP", quality=95),
}
OF_IMAGEMAGICK = {
    **{f"TIFF {mode}": encoded(image, "TIFF") for mode, image in MODES.items() if mode != "LA"},
    **{f"TIFF {kind}": encoded(PICTURE, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate")},
    **{f"TIFF orientation {n}": with_orientation(PICTURE, n, "TIFF") for n in range(1, 9)},
    "TIFF CMYK": encoded(PICTURE.convert("CMYK"), "TIFF"),
    "TIFF JPEG": encoded(PICTURE, "TIFF", compression="jpeg"),
    **{f"PPM {mode}": encoded(MODES[mode], "PPM") for mode in ("RGB", "L", "1", "16 bits")},
}
TOLERANCE = {"JPEG CMYK": 4, "JPEG subsampled": 4, "WEBP lossy": 4, "PNG RGBA": 1, "PNG LA": 1, "WEBP RGBA": 1}
# Draws each picture on white and writes its size and RGB values into the page.
PAGE = """<!doctype html><pre id="seen"></pre><script>
const files = FILES;
(async () => {
  const seen = {};
  for (const [name, source] of Object.entries(files)) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    seen[name] = [canvas.width, canvas.height, ...context.getImageData(0, 0, canvas.width, canvas.height).data];
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.fixture(scope="module")
def seen_by_a_browser(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("browser")
    files = {
        name: f"data:image/{name.split()[0].lower()};base64,{base64.b64encode(content).decode()}"
        for name, content in OF_BROWSERS.items()
    }
    page = folder / "page.html"
    page.write_text(PAGE.replace("FILES", json.dumps(files)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", f"--user-data-dir={folder}"]
    command = [browser, *flags, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    pictures = json.loads(unescape(found[1]))
    return {
        name: np.array(values, dtype=int).reshape(height, width, 4)[..., :3]
        for name, (width, height, *values) in pictures.items()
    }


@pytest.mark.parametrize("name", OF_BROWSERS)
def test_a_picture_is_what_a_browser_shows(name: str, seen_by_a_browser: dict[str, np.ndarray]) -> None:
    ours = np.asarray(decode(OF_BROWSERS[name]), dtype=int)
    assert ours.shape == seen_by_a_browser[name].shape
    assert np.abs(ours - seen_by_a_browser[name]).max() <= TOLERANCE.get(name, 2)


def is_imagemagick(command: str) -> bool:
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    return "ImageMagick" in done.stdout


@pytest.mark.parametrize("name", OF_IMAGEMAGICK)
def test_a_picture_is_what_imagemagick_shows(name: str, tmp_path: Path) -> None:
    command = shutil.which("magick") or shutil.which("convert")
    if not command or not is_imagemagick(command):
        pytest.skip("no ImageMagick here")
    path = tmp_path / f"picture.{name.split()[0].lower()}"
    path.write_bytes(OF_IMAGEMAGICK[name])
    options = ["-auto-orient", "-background", "white", "-alpha", "remove", "-colorspace", "sRGB", "-depth", "8"]
    done = subprocess.run([command, str(path), *options, "ppm:-"], capture_output=True, check=True)
    theirs = np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"), dtype=int)
    ours = np.asarray(decode(OF_IMAGEMAGICK[name]), dtype=int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2
