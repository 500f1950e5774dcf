"""An exponential moving average of the weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """The average of `network`'s weights and buffers; `update_parameters(network)` after each step.

    The decay begins low and rises to `decay` as (1 + steps) / (10 + steps), as in TensorFlow's
    ExponentialMovingAverage, so that in a short run the average does not consist of the initial weights.
    """

    def average(averages: Tensors, values: Tensors, steps: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            for mean, value in zip(averages, values, strict=True):
                mean.copy_(value)
            return
        present = min(decay, (1 + float(steps)) / (10 + float(steps)))
        get_ema_multi_avg_fn(present)(averages, values, steps)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
