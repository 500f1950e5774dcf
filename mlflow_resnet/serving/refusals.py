"""What a server says no with: a short sentence of its own that repeats nothing of what it was sent.

What the model itself refuses is passed on from where it is raised; of MLflow's refusals only the kind is kept.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.scoring.over_http.admission import CALL, Call
from mlflow_resnet.scoring.sentences import FAILED, LONGEST_REASON, sentence_for

logger = logging.getLogger(__name__)


class NotedModel:
    """A model for MLflow's scoring server that notes in the call why it refuses, apart from what MLflow makes of it."""

    def __init__(self, model: Any) -> None:
        """Args: model: a PyFuncModel, or a weak reference that behaves like one."""
        self._model, self.metadata = model, model.metadata

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            return self._model.predict(data, params=params)
        except MlflowResnetError as error:
            if call := CALL.get():
                call.refusal = error.message
            raise


class ShortRefusals:
    """An application like another one whose refusals are short sentences. What the operator needs is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Message | None = None
        told = bytearray()
        call = CALL.get()

        async def send_short(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refusal = message
            elif refusal is None:
                await send(message)
            else:
                told.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await send_refusal(refusal, short(bytes(told), refusal["status"], call), send)

        try:
            await self._app(scope, receive, send_short)
        except Exception:
            if refusal is None or call is None or call.is_scored:
                raise  # else a parser of MLflow's failed, which was answered as a refusal


async def send_refusal(start: Message, told: tuple[int, bytes], send: Send) -> None:
    status, content = told
    headers = MutableHeaders(scope=start)
    headers["Content-Length"], headers["Content-Type"] = str(len(content)), "application/json"
    start["status"] = status
    await send(start)
    await send({"type": "http.response.body", "body": content})


def short(content: bytes, status: int, call: Call | None) -> tuple[int, bytes]:
    """The status and the content of a refusal, made of those of MLflow's scoring server."""
    if call is None:  # nothing was sent to it
        return status, content[:LONGEST_REASON]
    try:
        facts = json.loads(content)
        message, code, trace = str(facts["message"]), facts["error_code"], facts.get("stack_trace")
    except (ValueError, LookupError, TypeError):  # not all of them are objects
        message, code, trace = "", "BAD_REQUEST", None
    if status == 504:
        return status, json.dumps({"error_code": "DEADLINE_EXCEEDED", "message": "not done in time"}).encode()
    if call.refusal:
        sentence = call.refusal[:LONGEST_REASON]
    elif call.is_scored:
        sentence = FAILED
        if trace:
            logger.error(trace)
    else:
        status, sentence = 400 if status >= 500 else status, sentence_for(message)
    if status < 500:
        logger.warning("refused: %s", sentence)
    return status, json.dumps({"error_code": code, "message": sentence}).encode()
