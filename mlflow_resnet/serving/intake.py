"""Bounds what a server takes in: size and cost of bodies, and requests at once.

A body is received here, in its time, before anything else sees the request; what has not arrived costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlflow_resnet.errors import RefusedBodyError
from mlflow_resnet.scoring.over_http.admission import CALL, REQUESTS_AT_ONCE, Call
from mlflow_resnet.scoring.over_http.bodies import CONTENT_TYPES, CSV, JSON, check_body
from mlflow_resnet.serving.monitoring import PROTOCOL
from mlflow_resnet.serving.protocols.body_kinds import INFERENCE, NAMES

BUSY = (429, 503)
Answer = Callable[[Scope, str, bytes], Awaitable[Response]]
BODIES_AT_ONCE = 2  # of the largest size
TEXT_SHARE = 4  # JSON and CSV may have this part of the largest size: their parsers need several times as much
TEXTS = (JSON, CSV, INFERENCE)
COPIES = 2  # of what other bodies hold, while it is taken out of them
FIRST_SECONDS = 10.0  # for a body of no bytes; more of them have more time
BYTES_PER_SECOND = 16 * 2**10


@dataclass(eq=False)
class Arrival:
    """A body that is arriving: its bytes, and how many of them are reserved."""

    began: float = field(default_factory=time.monotonic)
    content: bytearray = field(default_factory=bytearray)
    held: int = 0
    gave_way: bool = False

    @property
    def seconds_left(self) -> float:
        allowed = FIRST_SECONDS + len(self.content) / BYTES_PER_SECOND
        return self.began + min(allowed, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()) - time.monotonic()


class Intake:
    """Passes whole bodies on to `answer`, with their kind, and answers 4xx or 503 to those that are too much.

    Attributes:
        requests: those whose bodies are there, and that are being answered.
        held: bytes of bodies, of what has arrived of them; of Parquet, what it decodes to.
    """

    def __init__(
        self,
        answer: Answer,
        refuse: Callable[[str, int], Response],
        find_kind: Callable[[Headers], str],
        max_body_bytes: int,
        max_images: Callable[[Scope], int],
    ) -> None:
        """Args: max_images: how many the model that answers takes at once."""
        self._answer, self._refuse, self._find_kind = answer, refuse, find_kind
        self._max_bytes, self._max_images = max_body_bytes, max_images
        self._most_held = BODIES_AT_ONCE * max_body_bytes
        self._arriving: dict[Arrival, None] = {}  # the one that takes longest first
        self.requests = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival()
        try:
            headers = Headers(scope=scope)
            kind = self._find_kind(headers)
            scope[PROTOCOL] = NAMES[kind]
            self._check_size(int(headers.get("content-length", "0")), kind)
            if self.requests >= REQUESTS_AT_ONCE:
                raise busy()
            content = await self._receive_body(arrival, kind, receive)
            if content is not None:
                await self._answer_whole(arrival, kind, content, scope, receive, send)
        except HTTPException as refused:
            answer = self._refuse(refused.detail, refused.status_code)
            answer.headers.update(refused.headers or {})
            await answer(scope, receive, send)
        except RefusedBodyError as refused:
            await self._refuse(refused.message, refused.http_status)(scope, receive, send)
        finally:
            self.held -= arrival.held

    def _check_size(self, size: int, kind: str) -> None:
        limit, advice = self._max_bytes, ""
        if kind in TEXTS:
            limit, advice = limit // TEXT_SHARE, ", or pictures without base64, which may be larger"
        if size > limit:
            problem = f"the body is over the limit of {limit / 2**20:g} MiB; send several requests{advice}"
            raise HTTPException(413, problem)

    async def _receive_body(self, arrival: Arrival, kind: str, receive: Receive) -> bytes | None:
        """The body; None if the client has left."""
        self._arriving[arrival] = None
        try:
            while True:
                try:
                    message = await asyncio.wait_for(receive(), max(arrival.seconds_left, 0))
                except asyncio.TimeoutError:
                    problem = "the body did not arrive in time; send it at once, or less of it"
                    raise HTTPException(408, problem, {"Connection": "close"}) from None
                if arrival.gave_way:
                    raise busy()
                if message["type"] == "http.disconnect":
                    return None
                arrival.content += message.get("body", b"")
                self._check_size(len(arrival.content), kind)
                self._hold(arrival, len(arrival.content))
                if not message.get("more_body"):
                    return bytes(arrival.content)
        finally:
            self._arriving.pop(arrival, None)

    def _hold(self, arrival: Arrival, size: int) -> None:
        """Counts `size` bytes for a body. If there is no room, those that have been arriving for longest give way.

        Raises:
            HTTPException: if that is not enough.
        """
        more = size - arrival.held
        for other in list(self._arriving):
            if self.held + more <= self._most_held:
                break
            if other is not arrival:
                del self._arriving[other]
                other.gave_way = True
                other.content.clear()
                self.held, other.held = self.held - other.held, 0
        if self.held + more > self._most_held:
            raise busy()
        self.held, arrival.held = self.held + more, size

    async def _answer_whole(
        self, arrival: Arrival, kind: str, content: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        arrival.content.clear()
        if self.requests >= REQUESTS_AT_ONCE:
            raise busy()
        call = Call()
        self.requests += 1
        try:
            content, size = await self._check(kind, content, scope)
            self._hold(arrival, min(max(size, arrival.held), self._most_held))
            CALL.set(call)  # in the context of this request, which is a task of its own
            answer = await self._answer(scope, kind, content)
            if answer.status_code in BUSY:
                answer.headers["Retry-After"] = str(call.retry_after)
            await answer(scope, receive, send)
        finally:
            self.requests -= 1

    async def _check(self, kind: str, content: bytes, scope: Scope) -> tuple[bytes, int]:
        """Returns what may be parsed, and the bytes that it takes then."""
        size = len(content)
        if kind in CONTENT_TYPES:
            limits = self._max_bytes, self._max_images(scope)
            content, size = await asyncio.to_thread(check_body, kind, content, *limits)
        return content, size if kind in TEXTS else COPIES * size


def busy() -> HTTPException:
    return HTTPException(503, "busy: too much at once; try again in 1 s", {"Retry-After": "1"})
