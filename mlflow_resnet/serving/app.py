"""The application of one process: MLflow's scoring server of the current version, whose name every answer carries."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from mlflow_resnet.options import ServeOptions
from mlflow_resnet.registry.versions import alias_of
from mlflow_resnet.scoring import guard, hosting
from mlflow_resnet.serving.current import CurrentVersion
from mlflow_resnet.serving.intake import Intake
from mlflow_resnet.serving.version import load_version


def create_app(options: ServeOptions, version_uri: str) -> Starlette:
    """Loads and warms up `version_uri`, or the version that the alias means by now if it is to be followed.

    Raises:
        InvalidModelError: if that cannot be served.
    """
    os.environ[guard.SERVING] = "true"
    alias = alias_of(options.model_uri)
    current = CurrentVersion(load_version(version_uri, options.device), alias, options.device, options.poll_seconds)
    if options.follow:
        current.look()

    @contextlib.asynccontextmanager
    async def following(app: Starlette) -> AsyncIterator[None]:
        hosting.take_requests_at_once()
        if options.follow:
            current.start()
        yield
        current.stop()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        served = current.served  # once: what the headers name is what answers

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(served.headers)
            await send(message)

        await served.app(scope, receive, send_named)

    async def model(request: Request) -> JSONResponse:
        served = current.served
        return JSONResponse(served.facts() | current.facts(), headers=served.headers)

    intake = Intake(answer, options.max_body_mib * 2**20)
    return Starlette(routes=[Route("/model", model), Mount("/", intake)], lifespan=following)
