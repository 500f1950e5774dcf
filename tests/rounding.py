"""How far apart two computations of the same numbers may be, whatever the CPU.

A float32 result is off by a part of up to UNIT of itself. Kernels add the products of a convolution in an order of
their own, which depends on the CPU, on the shape of the input and on the engine, and the errors of a sum of n products
are a random walk: sqrt(n) UNIT (N. J. Higham, T. Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM
Journal on Scientific Computing 41(5), 2019). The errors of layers behind each other add up, and both sides of a
comparison have them. Measured differences are a tenth of that.

Bits are compared only where the same network gets the same batches in the same process.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch

UNIT = 2.0**-24


def rounding(layers: int, products: int) -> float:
    """The largest difference of two results of `layers` sums behind each other, each of so many products, relative."""
    return 2 * layers * math.sqrt(products) * UNIT


RESNET18 = rounding(layers=18, products=9 * 512)  # 1.5e-4 of the largest logit
RESNET50 = rounding(layers=50, products=9 * 512)  # 4e-4
OF_ARCHITECTURE = {"resnet18": RESNET18, "resnet50": RESNET50, "resnext50_32x4d": RESNET50}
LOGITS = 20  # no two logits of the networks here are further apart
LOSS = LOGITS * RESNET18  # 3e-3: -log p is a difference of logits
# of a probability: 18 layers with bf16's unit, 2**-9, are 0.035 of a logit of 5, and dp/dlogit is at most 1/4
BF16 = 0.05
INT8 = 0.2  # the same with steps of 1/256 of the largest value, which most values are far below


def of_auto() -> float:
    """The same of the largest logit for precision `auto`, which is bf16 where that is faster, with a unit of 2**-9."""
    from mlflow_resnet.model.precision import is_bf16_faster

    return 18 * 2.0**-9 if is_bf16_faster(torch.device("cpu")) else RESNET18


def after_steps(steps: int) -> float:
    """The same of a loss after so many steps: each brings the rounding of a forward and of a backward pass."""
    return steps * 2 * RESNET18


def assert_same_probabilities(found, expected, error: float = RESNET18) -> None:
    """That two computations of a float32 network agree; NaN, of an image that cannot be read, with NaN.

    Softmax makes a relative error of the logits one of their range in log p. What a picture that is not the same gives
    is further away, also where a network of random weights gives all pictures nearly the same.
    """
    found, expected = (np.log(np.asarray(each, dtype=float)) for each in (found, expected))
    spread = np.nanmax(expected) - np.nanmin(expected) if np.isfinite(expected).any() else 0.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=error * spread + 8 * UNIT)


def assert_same_rows(found: pd.DataFrame, expected: pd.DataFrame, error: float = RESNET18) -> None:
    """That two tables of predictions agree: probabilities but for rounding, everything else exactly."""
    assert list(found.columns) == list(expected.columns)
    numbers = [name for name in expected if "Probabilit" in name]
    others = [name for name in expected if name not in numbers]
    pd.testing.assert_frame_equal(found[others], expected[others], check_dtype=False)
    values = (frame[numbers].to_numpy(float, na_value=np.nan) for frame in (found, expected))
    assert_same_probabilities(*values, error)


def about(loss: float, error: float = LOSS) -> object:
    """A loss, as another computation may give it."""
    return pytest.approx(loss, rel=0, abs=error)
