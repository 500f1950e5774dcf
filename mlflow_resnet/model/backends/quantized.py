"""int8, by NNCF's post-training quantization, for the formats that hold a graph: ONNX and OpenVINO.

Weights have a range for each channel. What lowers the error most is that activations have the whole range seen, where
NNCF's own choice, a mean over pictures, cuts off what is beyond it; next, that the two ends of the network stay floats.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.model.backends.engines import NNCF, OnnxEngine, OpenVinoEngine, import_package


def quantize(engine: OnnxEngine | OpenVinoEngine, model: Any, pictures: Sequence[np.ndarray]) -> Any:
    """A model of `engine` with convolutions in int8, but for the first one.

    The ranges of values come from `pictures`, uint8 of shape (1, 3, image_size, image_size) each.
    """
    nncf = import_package(NNCF)
    whole_range = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    is_quiet = is_own_process()  # NNCF shows its progress on stdout, and logs what nobody can act on
    if is_quiet:
        logging.getLogger(NNCF).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr) if is_quiet else contextlib.nullcontext():
        return nncf.quantize(
            model,
            nncf.Dataset(pictures, engine.adapt_input),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=engine.find_ends(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=whole_range),
        )
