"""Adds the limits and refusals of `mlflow-resnet serve` to `mlflow models serve`.

It parses a body before a model sees it, and has no hook for that, so its function is replaced in the
process that serves a model of ours. It takes the body, its Content-Type, the model and the schema of its input, and
MlflowExceptions that it raises become answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_resnet.errors import InvalidOptionsError, MlflowResnetError
from mlflow_resnet.mlflow_seams import call_in_server_loop, replace_invocations
from mlflow_resnet.scoring.over_http.admission import CALL, Call, take_requests_at_once
from mlflow_resnet.scoring.over_http.bodies import check_body, find_content_type
from mlflow_resnet.scoring.sentences import FAILED, sentence_for

MAX_DECODED_BYTES = 128 * 2**20  # of Parquet; the size of what is sent is a proxy's to limit

_logger = logging.getLogger(__name__)


def bound_mlflows_server(max_images: int) -> None:
    """Has MLflow's scoring server of this process parse only what costs little, and take all requests at once."""
    call_in_server_loop(take_requests_at_once)
    replace_invocations(partial(answer_bounded, max_images))


def answer_bounded(
    max_images: int, invocations: Callable[..., Any], data: bytes, content_type: str | None, *others: Any
) -> Any:
    """Returns the answer of `invocations`, or one of our own errors."""

    def answer() -> Any:
        kind = find_content_type(content_type or "")
        content, _ = check_body(kind, data, MAX_DECODED_BYTES, max_images)
        return invocations(content, kind, *others)

    token = CALL.set(Call(time.monotonic()))
    try:
        return answer_shortly(answer)
    finally:
        CALL.reset(token)


def answer_shortly(answer: Callable[[], Any]) -> Any:
    """Calls `answer` for the current call. The operator's log tells more than the caller is told.

    Raises:
        MlflowResnetError: whatever it raises, in one sentence that repeats nothing of what was sent.
    """
    call = CALL.get()
    try:
        return answer()
    except MlflowResnetError as error:
        _logger.warning("refused: %s", error)
        raise
    except Exception as error:
        message = error.message if isinstance(error, MlflowException) else ""
        is_scored = bool(call and call.is_scored)
        sentence = FAILED if is_scored else sentence_for(message)
        if is_scored:
            _logger.error(getattr(error, "stack_trace", None) or message, exc_info=not message)
        else:
            _logger.warning("refused: %s", sentence)
        raise InvalidOptionsError([sentence]) from None
