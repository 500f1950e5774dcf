"""Pictures that are written as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from mlflow_resnet.images.conversion.changes import make_unique
from mlflow_resnet.io.atomic import output_errors
from mlflow_resnet.io.file_names import path_below


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 of shape (height, width, 3) as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(folder: Path, name: str, content: bytes, taken: set[str]) -> str:
    """Writes a PNG below `folder` and returns its name: `name` but for the suffix, with a number if that is taken.

    Raises OutputError if it cannot be written.
    """
    file = make_unique(f"{name.rpartition('.')[0]}.png", taken)
    path = path_below(folder, file)
    with output_errors(path):  # a folder may be called like a file, but for the suffix
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return file
