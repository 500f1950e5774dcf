"""Adds the limits and refusals of `mlflow-resnet serve` to `mlflow models serve`.

It parses a body before a model sees it, and has no hook for that, so its function is replaced in the
process that serves a model of ours. It takes the body, its Content-Type, the model and the schema of its input, and
MlflowExceptions that it raises become answers. MLflow (3.17) refuses with the input, with bytes of it in the text of
exceptions, or with stack traces; fixed sentences stand in for messages that could repeat input or reveal addresses.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_resnet import mlflow_seams
from mlflow_resnet.errors import InvalidOptionsError, MlflowResnetError
from mlflow_resnet.io.process import keep_collections_short
from mlflow_resnet.scoring.over_http import bodies
from mlflow_resnet.scoring.over_http.admission import CALL, Call, take_requests_at_once
from mlflow_resnet.scoring.over_http.bodies import check_body, find_content_type

MAX_DECODED_BYTES = 128 * 2**20  # of Parquet; the size of what is sent is a proxy's to limit
LONGEST_REASON = 500  # characters
CANNOT_BE_USED = "the input cannot be used; send images in base64 as inputs, or a table with one column of them"
FAILED = "the images could not be scored; the server's log says why"
PLACE = re.compile(mlflow_seams.PLACE_IN_JSON)
# What MLflow says in its refusals -> what is said instead.
SENTENCES = {
    mlflow_seams.NOT_JSON: bodies.INVALID_JSON,
    mlflow_seams.NOT_ONE_INPUT: bodies.NOT_ONE_FORM,
    mlflow_seams.NOT_CSV: bodies.UNREADABLE_CSV,
    mlflow_seams.NOT_PARQUET: bodies.UNREADABLE_PARQUET,
    mlflow_seams.PARAMS_NOT_A_DICTIONARY: bodies.PARAMS_NO_OBJECT,
    mlflow_seams.PARAMS_OF_OTHER_TYPES: "a value in params has another type than predict takes",
}

_logger = logging.getLogger(__name__)


def bound_mlflows_server(max_images: int) -> None:
    """Has MLflow's scoring server of this process parse only what costs little, and take all requests at once.

    It is called when the model is in memory, before the server listens.
    """
    keep_collections_short()
    mlflow_seams.call_in_server_loop(take_requests_at_once)
    mlflow_seams.replace_invocations(partial(answer_bounded, max_images))


def answer_bounded(
    max_images: int, invocations: Callable[..., Any], data: bytes, content_type: str | None, *others: Any
) -> Any:
    """Returns the answer of `invocations`, or one of our own errors."""

    def answer() -> Any:
        kind = find_content_type(content_type or "")
        content, _ = check_body(kind, data, MAX_DECODED_BYTES, max_images)
        return invocations(content, kind, *others)

    token = CALL.set(Call())
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
        if call and call.is_scored:
            sentence = FAILED
            _logger.error(getattr(error, "stack_trace", None) or message, exc_info=not message)
        else:
            sentence = sentence_for(message)
            _logger.warning("refused: %s", sentence)
        raise InvalidOptionsError([sentence]) from None


def sentence_for(message: str) -> str:
    """Returns a fixed sentence for a message of MLflow's, which may hold the input."""
    beginning = message[:LONGEST_REASON]
    sentence = next((ours for theirs, ours in SENTENCES.items() if theirs in beginning), CANNOT_BE_USED)
    place = PLACE.search(beginning)
    return f"{sentence}: {place[1]}" if place else sentence
