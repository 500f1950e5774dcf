from __future__ import annotations

import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from made_images import encoded, photo, png
from PIL import Image

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decoding import decode as decoding
from mlflow_resnet.images.decoding.decode import decode, read_region


def huge_png() -> bytes:
    return png(12000, 12000, 1, 0, bytes(1501 * 12000))


BROKEN = {
    "truncated jpeg": (encoded(photo(64, 64), "JPEG")[:-200], "truncated or damaged"),
    "truncated png": (encoded(photo(64, 64), "PNG")[:-200], "truncated or damaged"),
    "truncated gif": (encoded(photo(64, 64), "GIF")[:-200], "truncated or damaged"),
    "truncated tiff": (encoded(photo(64, 64), "TIFF")[:500], "truncated or damaged"),
    "truncated webp": (encoded(photo(64, 64), "WEBP")[:100], "truncated or damaged"),
    "truncated bmp": (encoded(photo(64, 64), "BMP")[:-200], "truncated or damaged"),
    "empty IDAT": (png(64, 64, 8, 2, b""), "truncated or damaged"),
    "nothing": (b"", "empty file"),
    "text": (b"hello, I am a jpg", "not an image of a supported format (JPEG, PNG"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), "but HEIC; save it as JPEG or PNG"),
    "AVIF": (b"\0\0\0 ftypavif\0\0\0\0avifmif1miaf" + bytes(300), "but AVIF; save it as JPEG or PNG"),
    "film": (b"\0\0\0\x18ftypisom" + bytes(99), "but a film, such as MP4"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(300), "but JPEG 2000; save it as JPEG or PNG"),
    "icon": (encoded(photo(16, 16), "ICO"), "but an icon; save it"),
    "DICOM": (bytes(128) + b"DICM", "but DICOM; save it"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s31390--f50d7ac4.jpg\n", "git annex get"),
    "HTML": (b"\n<!DOCTYPE html><html>404</html>", "but an HTML page, as a failed download leaves"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "but XML, as a failed download"),
    "SVG": (b"<?xml version='1.0'?><!-- x --><svg xmlns='http://www.w3.org/2000/svg'/>", "but SVG; save it"),
    "SVG?": (b"<?" + b"<!---->" * 100_000, "not an image of a supported format"),
    "PDF": (b"%PDF-1.4\n", "but PDF; save it"),
    "zip": (b"PK\3\4" + bytes(99), "but a zip; unpack it"),
    "pickle": (b"\x80\x04\x95" + bytes(20), "but a pickle, which could run any code"),
    "JSON": (b'{"error": "not found"}', "but JSON, and no picture"),
    "zeros": (bytes(5000), "but nothing but zeros, as a broken copy leaves"),
    "line end first": (b"\n" + encoded(photo(16, 16), "JPEG"), "but a JPEG that begins 1 bytes late; save it anew"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a supported format"),
    "ICO": (encoded(photo(16, 16), "ICO"), "not an image of a supported format"),
    "DIB": (encoded(photo(16, 16), "DIB"), "not an image of a supported format"),
    "144 megapixels": (huge_png(), "12000x12000 is 144 megapixels, over the limit of 64"),
    "2500 megapixels": (png(50000, 50000, 1, 0, b"\0"), "50000x50000 is 2500 megapixels"),
    "268 megapixels": (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (16382).to_bytes(3, "little") * 2 + b"VP8 \0\0\0\0",
        "over the limit of 64 megapixels",
    ),
    "no pixels": (b"P5 0 5 255\n", "truncated or damaged"),
    "PNG magic only": (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
    "slow PPM": (b"P5 3000 3000 254\n" + bytes(9_000_000), "save it as PNG"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("error")
def test_a_broken_image_is_refused_in_one_line_and_at_once(kind: str) -> None:
    content, reason = BROKEN[kind]
    started = time.perf_counter()
    for read in (decode, lambda content: read_region(content, lambda w, h: (0, 0, w, h), (8, 8))):
        with pytest.raises(InvalidImageError) as caught:
            read(content)
        assert reason in caught.value.message
        assert "\n" not in caught.value.message
        assert "BytesIO" not in caught.value.message
    assert time.perf_counter() - started < 1


def test_a_png_of_57_bytes_that_crashes_torchvision_is_refused() -> None:
    content = png(64, 64, 8, 2, b"")
    assert len(content) == 57
    with pytest.raises(InvalidImageError):
        decode(content)


def test_every_cut_of_every_format_decodes_or_is_an_invalid_image() -> None:
    refused = 0
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        content = encoded(photo(48, 32), kind)
        for cut in range(0, len(content), max(1, len(content) // 60)):
            try:
                decode(content[:cut])
            except InvalidImageError:
                refused += 1
    assert refused > 300


def test_damaged_exif_does_not_refuse_the_picture() -> None:
    content = encoded(Image.new("RGB", (8, 8), "white"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(content).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.process
def test_what_pillow_says_of_damaged_metadata_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "damaged.jpg"
    path.write_bytes(encoded(photo(8, 8), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    script = (
        "import sys; from mlflow_resnet.io.process import claim_process; claim_process()\n"  # as the command line does
        "from mlflow_resnet.images.audit.image_facts import inspect_file; print(inspect_file(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "width=8" in done.stdout
    assert done.stderr == ""


def test_a_text_ppm_with_many_comments_takes_no_time() -> None:
    content = b"P2\n2 1\n255\n" + b"# no\n" * 400_000 + b"255 0 # end"
    started = time.perf_counter()
    assert decode(content).getpixel((0, 0)) == (255, 255, 255)
    assert time.perf_counter() - started < 2


def test_pillows_own_limit_neither_warns_nor_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(photo(40, 30), "PNG")).size == (40, 30)


def test_memory_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(decoding, "rgb", exhausted)
    with pytest.raises(MemoryError):
        decode(encoded(photo(4, 4), "PNG"))
