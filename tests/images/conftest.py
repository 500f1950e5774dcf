from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_images import encoded
from PIL import Image


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small image of one color, made from `seed`, at a path relative to tmp_path."""

    def write(name: str, seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (seed * 37 % 256, seed * 91 % 256, seed % 256)
        path.write_bytes(encoded(Image.new("RGB", (4, 3), color), "PNG"))
        return path

    return write


@pytest.fixture
def pets(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """10 cats and 5 dogs."""
    for label, count in (("cat", 10), ("dog", 5)):
        for index in range(count):
            write_image(f"pets/{label}/{index}.png", index)
    return tmp_path / "pets"
