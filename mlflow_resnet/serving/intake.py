"""What a server takes in: bodies of bounded size, and no more of them at once than memory and threads allow."""

from __future__ import annotations

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_resnet.scoring.admission import CALL, Call
from mlflow_resnet.scoring.hosting import REQUESTS_AT_ONCE

BUSY = (429, 503)
BODIES_AT_ONCE = 4  # of the largest size


class Intake:
    """An application that passes requests on to `app`, and answers 413 or 503 to those that are too much.

    Attributes:
        requests: those with bodies that are being answered.
        held: bytes of their bodies, declared or received.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes
        self.requests = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        length = int(declared) if declared.isdecimal() else 0
        try:
            self._check(length, length)
            await self._answer(length, scope, receive, send)
        except HTTPException as refused:
            await JSONResponse({"detail": refused.detail}, refused.status_code, refused.headers)(scope, receive, send)

    def _check(self, size: int, more: int) -> None:
        """Raises HTTPException if a body of `size` bytes, `more` of them not held yet, is too much."""
        if size > self._max_body_bytes:
            limit = f"{self._max_body_bytes / 2**20:g} MiB"
            raise HTTPException(413, f"the body is over the limit of {limit}; send several requests")
        if self.requests >= REQUESTS_AT_ONCE or self.held + more > BODIES_AT_ONCE * self._max_body_bytes:
            raise HTTPException(503, "busy: too much at once; try again in 1 s", {"Retry-After": "1"})

    async def _answer(self, length: int, scope: Scope, receive: Receive, send: Send) -> None:
        call, held, received = Call(time.monotonic()), length, 0
        refused: HTTPException | None = None

        async def receive_counted() -> Message:
            nonlocal held, received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > held:  # the length was not declared
                try:
                    self._check(received, received - held)
                except HTTPException as error:
                    refused = error
                    raise
                self.held, held = self.held + received - held, received
            return message

        async def send_unless_refused(message: Message) -> None:
            if refused:
                return  # what MLflow makes of the error
            if message["type"] == "http.response.start" and message["status"] in BUSY:
                MutableHeaders(scope=message)["Retry-After"] = str(call.retry_after)
            await send(message)

        token = CALL.set(call)
        self.requests, self.held = self.requests + 1, self.held + length
        try:
            await self._app(scope, receive_counted, send_unless_refused)
        except Exception:
            if not refused:
                raise
        finally:
            CALL.reset(token)
            self.requests, self.held = self.requests - 1, self.held - held
        if refused:
            raise refused
