"""The best epoch so far, by any metric, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mlflow_resnet.options.metric_names import LOWER_IS_BETTER


class Best:
    """A copy of the best epoch's weights.

    Args:
        metric: a metric of every epoch. Among equals the lower `val_loss` is better.
        patience: epochs without a new best after which `is_over`; 0 is never.
        delay: epochs that patience does not count.
    """

    def __init__(self, metric: str, patience: int = 0, delay: int = 0) -> None:
        self.metric, self.patience, self.delay = metric, patience, delay
        self.epoch = 0
        self.waiting_since = 0  # the epoch after which patience began
        self.score: tuple[float, ...] = (-math.inf, -math.inf)
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, metrics: dict[str, float], weights: dict[str, Tensor]) -> bool:
        """Copies the weights if this epoch is the best so far, and says whether it is."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        score = (sign * metrics[self.metric], -metrics["val_loss"])
        if score <= self.score:
            return False
        self.epoch, self.score = epoch, score
        self.weights = {key: tensor.detach().clone() for key, tensor in weights.items()}
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "waiting_since": self.waiting_since,
            "score": list(self.score),
            "weights": self.weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.waiting_since = state["epoch"], state["waiting_since"]
        self.score, self.weights = tuple(state["score"]), dict(state["weights"])

    def is_over(self, epoch: int) -> bool:
        """Returns whether training ends with `epoch`."""
        return self.patience > 0 and epoch - max(self.epoch, self.waiting_since, self.delay) >= self.patience
