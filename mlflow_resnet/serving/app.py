"""The application of one process: it answers as `mlflow models serve` does, and names the version that answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import mlflow
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.pyfunc import scoring_server
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.options.serve import ServeOptions
from mlflow_resnet.registry.versions import parse_alias
from mlflow_resnet.scoring.over_http.admission import take_requests_at_once
from mlflow_resnet.scoring.over_http.bodies import MIB
from mlflow_resnet.scoring.over_http.guard import SERVING
from mlflow_resnet.scoring.over_http.mlflows_server import LONGEST_REASON, answer_shortly
from mlflow_resnet.serving.connections import complain_seldom
from mlflow_resnet.serving.current import CurrentVersion
from mlflow_resnet.serving.intake import Intake
from mlflow_resnet.serving.version import load_version

SERVED = "mlflow_resnet.served"  # of a request's scope: the version that answers it


def create_app(options: ServeOptions, version_uri: str) -> Starlette:
    """Loads and warms up `version_uri`, or the version that the alias means by now if it is to be followed.

    Raises:
        InvalidModelError: if that cannot be served.
    """
    os.environ[SERVING] = "true"
    alias = parse_alias(options.model_uri)
    current = CurrentVersion(load_version(version_uri, options.device), alias, options.device, options.poll_seconds)
    if options.follow:
        current.look()

    @contextlib.asynccontextmanager
    async def following(app: Starlette) -> AsyncIterator[None]:
        take_requests_at_once()
        complain_seldom(asyncio.get_running_loop())
        if options.follow:
            current.start()
        yield
        current.stop()

    async def model(request: Request) -> JSONResponse:
        return JSONResponse(request[SERVED].facts() | current.facts())

    intake = Intake(answer_invocation, options.max_body_mib * MIB, lambda scope: scope[SERVED].max_images)
    ping = Response("\n", media_type="application/json")
    version = Response(mlflow.__version__, media_type="application/json")
    pages: dict[str, Callable[..., Any]] = {"/ping": ping, "/health": ping, "/version": version, "/model": model}
    routes = [Route(path, page, methods=["GET"]) for path, page in pages.items()]
    app = Starlette(routes=[*routes, Route("/invocations", intake, methods=["POST"])], lifespan=following)
    app.router.redirect_slashes = False
    app.add_middleware(name_version, current)
    return app


async def answer_invocation(scope: Scope, kind: str, content: bytes) -> Response:
    """Returns the predictions for a body that was taken in, or in short why there are none. MLflow parses it."""
    model = scope[SERVED].model
    answer = partial(scoring_server.invocations, content, kind, model, model.metadata.get_input_schema())
    seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    try:
        answered = await asyncio.wait_for(asyncio.to_thread(answer_shortly, answer), seconds)
    except asyncio.TimeoutError:
        return JSONResponse({"error_code": "DEADLINE_EXCEEDED", "message": "not done in time"}, 504)
    except MlflowResnetError as error:
        refusal = {"error_code": error.error_code, "message": str(error)[:LONGEST_REASON]}
        return JSONResponse(refusal, error.get_http_status_code())
    return Response(answered.response, answered.status, media_type=answered.mimetype)


def name_version(app: ASGIApp, current: CurrentVersion) -> ASGIApp:
    """Gives each request to `app` the version that answers now, and names it in the answer."""

    async def answer_named(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        served = scope[SERVED] = current.served  # once: what the headers name is what answers

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(served.headers)
            await send(message)

        await app(scope, receive, send_named)

    return answer_named
