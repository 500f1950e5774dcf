"""The application of one process: what is asked at which path, by whom it is answered, and by which version."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import mlflow
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import InvalidModelError, join_names
from mlflow_resnet.io.process import is_own_process, keep_collections_short
from mlflow_resnet.model.hardware import keep_little_memory
from mlflow_resnet.options.serve import ServeOptions
from mlflow_resnet.registry.versions import parse_alias
from mlflow_resnet.scoring.over_http.admission import take_requests_at_once
from mlflow_resnet.scoring.over_http.bodies import MIB
from mlflow_resnet.scoring.over_http.guard import SERVING
from mlflow_resnet.serving.answers import (
    SERVED,
    SHADOW,
    answer_inference,
    answer_invocation,
    explain_absence,
    refuse_inference,
    refuse_invocation,
)
from mlflow_resnet.serving.connections import complain_seldom
from mlflow_resnet.serving.current import CurrentVersion
from mlflow_resnet.serving.intake import Intake
from mlflow_resnet.serving.monitoring import format_metrics, measure_requests
from mlflow_resnet.serving.openapi import describe_api
from mlflow_resnet.serving.page import show_page
from mlflow_resnet.serving.protocols.body_kinds import find_inference_kind, find_invocation_kind
from mlflow_resnet.serving.protocols.inference import describe_server, describe_tensors
from mlflow_resnet.serving.shadowing import Shadow
from mlflow_resnet.serving.version import ServedVersion, load_version


def create_app(options: ServeOptions, version_uri: str) -> Starlette:
    """Loads and warms up `version_uri`, or the version that the alias means by now if it is to be followed.

    Raises:
        InvalidModelError: if that cannot be served.
    """
    os.environ[SERVING] = "true"
    keep_little_memory()
    alias = parse_alias(options.model_uri)
    current = CurrentVersion(load_version(version_uri, options.device), alias, options.device, options.poll_seconds)
    if options.follow:
        current.look()
    shadow = open_shadow(options, current.served) if options.shadow else None
    if is_own_process():
        keep_collections_short()

    @contextlib.asynccontextmanager
    async def following(app: Starlette) -> AsyncIterator[None]:
        take_requests_at_once()
        complain_seldom(asyncio.get_running_loop())
        if options.follow:
            current.start()
        yield
        current.stop()
        if shadow:
            shadow.stop()

    def list_facts(request: Request) -> dict[str, Any]:
        return request[SERVED].facts() | current.facts() | {"shadow": shadow and shadow.facts()}

    async def model(request: Request) -> JSONResponse:
        return JSONResponse(list_facts(request))

    async def openapi(request: Request) -> JSONResponse:
        served: ServedVersion = request[SERVED]
        return JSONResponse(describe_api(served.version.name, str(served.version.version), served.classes))

    async def page(request: Request) -> Response:
        return show_page(list_facts(request))

    pages = [Route("/model", model, methods=["GET"]), *list_pages(), *list_inference_pages()]
    if options.openapi:
        pages.append(Route("/openapi.json", openapi, methods=["GET"]))
    if options.page:
        pages.append(Route("/", page, methods=["GET"]))
    middleware = [
        Middleware(name_version, current=current, shadow=shadow),
        Middleware(measure_requests, get_version=get_served_version),
    ]
    app = Starlette(routes=[*pages, *list_intakes(options)], lifespan=following, middleware=middleware)
    app.router.redirect_slashes = False
    return app


def get_served_version(scope: Scope) -> str:
    """Returns the version that answers a request."""
    return str(scope[SERVED].version.version)


def open_shadow(options: ServeOptions, champion: ServedVersion) -> Shadow:
    """Loads the challenger. Raises InvalidModelError if it cannot be served, or has other classes."""
    challenger = load_version(options.shadow, options.device)
    if different := sorted(set(champion.classes) ^ set(challenger.classes)):
        problem = (
            f"only one of it and {champion.uri} has the classes {join_names(different)}; shadow a model of the same."
        )
        raise InvalidModelError(options.shadow, problem)
    return Shadow(challenger, options.shadow_share)


def list_intakes(options: ServeOptions) -> list[BaseRoute]:
    """Where images are sent to."""
    limits = (options.max_body_mib * MIB, lambda scope: scope[SERVED].max_images)
    invocations = Intake(answer_invocation, refuse_invocation, find_invocation_kind, *limits)
    inference = Intake(answer_inference, refuse_inference, find_inference_kind, *limits)
    inferences = [f"{path}/infer" for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")]
    return [
        Route("/invocations", invocations, methods=["POST"]),
        *(Route(path, inference, methods=["POST"]) for path in inferences),
    ]


def list_pages() -> list[BaseRoute]:
    """What monitors and MLflow's clients ask for."""
    ping = Response("\n", media_type="application/json")
    version = Response(mlflow.__version__, media_type="application/json")
    pages: dict[str, Callable[..., Any]] = {"/ping": ping, "/health": ping, "/version": version}
    metrics = Route("/metrics", lambda request: format_metrics(), methods=["GET"])
    return [metrics, *(Route(path, page, methods=["GET"]) for path, page in pages.items())]


def list_inference_pages() -> list[BaseRoute]:
    """Health and metadata of the Open Inference Protocol."""

    async def describe(request: Request) -> Response:
        served: ServedVersion = request[SERVED]
        facts = describe_tensors(served.version.name, str(served.version.version), served.classes)
        return explain_absence(request.scope) or JSONResponse(facts)

    async def ready(request: Request) -> Response:
        facts = {"name": request[SERVED].version.name, "ready": True}
        return explain_absence(request.scope) or JSONResponse(facts)

    pages: dict[str, Callable[..., Any]] = {
        "/v2": JSONResponse(describe_server(__version__)),
        "/v2/health/live": JSONResponse({"live": True}),
        "/v2/health/ready": JSONResponse({"ready": True}),
    }
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        pages |= {path: describe, f"{path}/ready": ready}
    return [Route(path, page, methods=["GET"]) for path, page in pages.items()]


def name_version(app: ASGIApp, current: CurrentVersion, shadow: Shadow | None) -> ASGIApp:
    """Gives each request to `app` the version that answers now and its shadow, and names it in the answer."""

    async def answer_named(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        served = scope[SERVED] = current.served  # once: what the headers name is what answers
        scope[SHADOW] = shadow

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(served.headers)
            await send(message)

        await app(scope, receive, send_named)

    return answer_named
