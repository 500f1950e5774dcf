"""Unknown parameters of `predict` are refused.

MLflow (3.17, `_enforce_params_schema` in mlflow/models/utils.py) drops them before it calls the model, and all that is
left of them is a warning in its log. So that warning, where it is about a model of ours, becomes an error: a filter of
the logger raises it in the thread that would have gone on without the parameters. If MLflow ever words it otherwise,
they are dropped again, and tests fail.
"""

from __future__ import annotations

import ast
import logging
import re

from mlflow_resnet.options import unknown_params
from mlflow_resnet.scoring.guard import is_serving

LOGGER = logging.getLogger("mlflow.models.utils")
WARNING = re.compile(r"Unrecognized params (\[.*\]) are ignored.* Supported params are: (\{[^{}]+\})\. ", re.DOTALL)
OURS = {"top_k", "batch_size"}  # among the params of every model of ours, and together of hardly another's


class RefuseUnknownParams(logging.Filter):
    """Raises InvalidOptionsError instead of letting MLflow warn that it drops params of a model of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        if warning := WARNING.match(record.getMessage()):
            names, known = map(ast.literal_eval, warning.groups())
            if known >= OURS:
                raise unknown_params(() if is_serving() else names, known)
        return record.levelno >= (LOGGER.parent or LOGGER).getEffectiveLevel()


_refuse = RefuseUnknownParams()


def refuse_unknown_params() -> None:
    """From now on in this process, whatever it is that MLflow's log is to show."""
    LOGGER.setLevel(logging.WARNING)
    LOGGER.addFilter(_refuse)
