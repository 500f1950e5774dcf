"""The demo data set: scikit-learn's handwritten digits, which need no network."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from mlflow_resnet.io.atomic import new_directory


def write_digits(output_dir: str | os.PathLike[str]) -> None:
    """Writes 1,797 8x8 gray PNGs `<digit>/<index>.png` to a new directory. Raises OutputError.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, by way of scikit-learn.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)  # 0..16 to 0..255
    with new_directory(output_dir) as directory:
        for digit in range(10):
            (directory / str(digit)).mkdir()
        for index, (picture, digit) in enumerate(zip(pixels, digits.target, strict=True)):
            Image.fromarray(picture).save(directory / str(digit) / f"{index:04d}.png")
