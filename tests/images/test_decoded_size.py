"""How much memory decoding takes, and that a server takes no more."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiers import needs

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decoding import decode as decoding
from mlflow_resnet.images.decoding.cost import estimate_decoded_size
from mlflow_resnet.images.decoding.decode import bound_decoding, decode
from mlflow_resnet.io.memory import Room
from mlflow_resnet.model.hardware import give_back_memory
from mlflow_resnet.model.preprocessing import Preprocessing

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
SIDE = 4000
SPARE = 32 * 2**20  # the file, and what does not grow with the picture
KINDS = {
    "1-bit PNG": ("1", "PNG", {}),
    "gray PNG": ("L", "PNG", {}),
    "16-bit PNG": ("I;16", "PNG", {}),
    "palette PNG": ("P", "PNG", {}),
    "palette PNG with transparency": ("P", "PNG", {"transparency": 3}),
    "PNG": ("RGB", "PNG", {"compress_level": 1}),
    "PNG with a transparent color": ("RGB", "PNG", {"transparency": (1, 2, 3)}),
    "PNG with alpha": ("RGBA", "PNG", {"compress_level": 1}),
    "gray PNG with alpha": ("LA", "PNG", {}),
    "JPEG": ("RGB", "JPEG", {}),
    "progressive JPEG": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "progressive JPEG in CMYK": ("CMYK", "JPEG", {"progressive": True}),
    "WebP": ("RGB", "WEBP", {"method": 0}),
    "WebP with alpha": ("RGBA", "WEBP", {"method": 0}),
    "GIF": ("P", "GIF", {}),
    "16-bit TIFF": ("I;16", "TIFF", {"compression": "tiff_lzw"}),
    "TIFF in CMYK": ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
    "TIFF of JPEG": ("RGB", "TIFF", {"compression": "jpeg"}),
}


def file_of(mode: str, kind: str, **options: object) -> bytes:
    levels = np.random.default_rng(0).integers(0, 255, (SIDE // 16, SIDE // 16, 4), dtype=np.uint8)
    picture = Image.fromarray(levels, "RGBA").resize((SIDE, SIDE))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256)
    file = io.BytesIO()
    picture.convert(mode).save(file, kind, **options)
    return file.getvalue()


def kilobytes(name: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR.exists(), reason=needs("the peak of a process's memory", "Linux tells it"))
@pytest.mark.parametrize("name", KINDS)
def test_decoding_takes_no_more_memory_than_is_reserved_for_it(name: str) -> None:
    mode, kind, options = KINDS[name]
    content = file_of(mode, kind, **options)
    Preprocessing().prepare(content[:-1] if kind == "GIF" else content)  # libraries are loaded
    give_back_memory(torch.device("cpu"))
    CLEAR.write_text("5")
    before = kilobytes("VmRSS")
    Preprocessing().prepare(content)
    taken = 1024 * (kilobytes("VmHWM") - before)
    with Image.open(io.BytesIO(content)) as opened:
        is_drafted = opened.draft(None, (SIDE // 8, SIDE // 8)) is not None
        reserved = estimate_decoded_size(opened, content, 8 if is_drafted else 1)
    assert taken < reserved + SPARE


def test_transparency_behind_the_pixels_is_seen() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (10, 10)).save(picture, "PNG")
    content = picture.getvalue()
    with Image.open(picture) as opened:
        assert estimate_decoded_size(opened, content) < estimate_decoded_size(opened, content + b"tRNS")


def test_a_picture_over_the_room_is_refused_where_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_ROOM", Room(lambda: 0))
    file = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(file, "PNG")
    bound_decoding(9 * 2**20)
    bound_decoding(99 * 2**20)  # does nothing
    with pytest.raises(InvalidImageError, match=r"^1000x1000 takes 10 MiB to decode as PNG, over the limit of 9 MiB;"):
        decode(file.getvalue())
    small = io.BytesIO()
    Image.new("RGB", (900, 900)).save(small, "PNG")
    assert decode(small.getvalue()).size == (900, 900)
