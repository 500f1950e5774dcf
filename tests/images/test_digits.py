from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mlflow_resnet.errors import OutputError
from mlflow_resnet.images.digits import write_digits
from mlflow_resnet.images.directories import list_labeled


def test_writes_the_demo_images(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    found = list_labeled(tmp_path / "digits")
    digits = load_digits()
    assert len(found) == 1797
    assert found.counts() == {str(digit): int((digits.target == digit).sum()) for digit in range(10)}
    for index in (0, 17, 1796):
        picture = Image.open(tmp_path / "digits" / str(digits.target[index]) / f"{index:04d}.png")
        assert (picture.mode, picture.size) == ("L", (8, 8))
        assert np.abs(np.asarray(picture) / 255 - digits.images[index] / 16).max() < 1 / 255
    with pytest.raises(OutputError, match="not empty"):
        write_digits(tmp_path / "digits")
