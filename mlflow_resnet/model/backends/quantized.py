"""int8, by NNCF's post-training quantization, for the formats that hold a graph: ONNX and OpenVINO."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mlflow_resnet.model.backends.packages import NNCF, imported


def quantize(model: Any, images: Iterable[np.ndarray], as_input: Callable[[np.ndarray], Any]) -> Any:
    """The model with convolutions in int8.

    Args:
        images: to take the ranges of values from, uint8 of shape (1, 3, image_size, image_size) each.
        as_input: makes of them what the model takes.
    """
    nncf = imported(NNCF)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    pictures = list(images)
    with contextlib.redirect_stdout(sys.stderr):  # its progress
        return nncf.quantize(
            model,
            nncf.Dataset(pictures, as_input),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset.MIXED,
        )
