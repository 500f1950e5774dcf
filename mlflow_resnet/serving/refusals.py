"""What MLflow's scoring server says no with, without what it should not tell.

It answers a table that cannot be read with a stack trace, and repeats the whole input where that does not fit the
model's signature.
"""

from __future__ import annotations

import json
import logging

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_REASON = 500  # characters

logger = logging.getLogger(__name__)


class ShortRefusals:
    """An application like another one whose refusals have a short reason, and no stack trace: that is logged here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Message | None = None
        told = bytearray()

        async def send_short(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refusal = message
            elif refusal is None:
                await send(message)
            else:
                told.extend(message.get("body", b""))
                if not message.get("more_body"):
                    content = short(bytes(told))
                    MutableHeaders(scope=refusal)["Content-Length"] = str(len(content))
                    await send(refusal)
                    await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, send_short)


def short(content: bytes) -> bytes:
    """A refusal as MLflow words it, with the reason alone. Not all of them are JSON objects."""
    try:
        facts = json.loads(content)
        facts["message"] = reason_in(facts["message"])
    except (ValueError, LookupError, TypeError):
        return content[:LONGEST_REASON]
    if trace := facts.pop("stack_trace", None):
        logger.error(trace)
    return json.dumps(facts).encode()


def reason_in(message: str) -> str:
    """Without the input, which MLflow puts before the reason, or after it where it is not JSON."""
    return message.split("\nInput: ")[0].rpartition("Error: ")[2][:LONGEST_REASON]
