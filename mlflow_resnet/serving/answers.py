"""Answers a request whose body has been taken in: parses it, predicts, and writes what was predicted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.scoring.columns import ERROR, IMAGE, Columns
from mlflow_resnet.scoring.over_http.admission import CALL
from mlflow_resnet.scoring.over_http.mlflows_server import FAILED, LONGEST_REASON
from mlflow_resnet.serving.monitoring import count_images
from mlflow_resnet.serving.protocols.body_kinds import FORM, PICTURE
from mlflow_resnet.serving.protocols.image_files import parse_form, parse_picture
from mlflow_resnet.serving.protocols.inference import HEAD_LENGTH, format_inference, parse_inference
from mlflow_resnet.serving.protocols.mlflow_forms import format_records, parse_table
from mlflow_resnet.serving.protocols.question import Question, merge_params, parse_params
from mlflow_resnet.serving.shadowing import Shadow
from mlflow_resnet.serving.version import ServedVersion

SERVED = "mlflow_resnet.served"  # of a request's scope: the version that answers it
SHADOW = "mlflow_resnet.shadow"  # who is asked too, or None
ERROR_CODES = {  # of a status, as MLflow names them
    404: "RESOURCE_DOES_NOT_EXIST",
    408: "DEADLINE_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
Refuse = Callable[[str, int], Response]

_logger = logging.getLogger(__name__)


async def answer_invocation(scope: Scope, kind: str, content: bytes) -> Response:
    """Answers `/invocations`, whatever kind of body it has."""
    served: ServedVersion = scope[SERVED]

    def answer() -> Response:
        question = parse_invocation(scope, kind, content, served.max_images)
        return format_records(score_question(served, question, scope[SHADOW]))

    return await answer_in_time(answer, refuse_invocation)


def parse_invocation(scope: Scope, kind: str, content: bytes, max_images: int) -> Question:
    if kind == PICTURE:
        question = parse_picture(content)
    elif kind == FORM:
        question = parse_form(Headers(scope=scope).get("content-type", ""), content, max_images)
    else:
        question = parse_table(kind, content)
    asked = parse_params(QueryParams(scope["query_string"]).multi_items())
    return Question(question.images, merge_params(question.params, asked), question.names)


async def answer_inference(scope: Scope, kind: str, content: bytes) -> Response:
    """Answers a request of the Open Inference Protocol."""
    served: ServedVersion = scope[SERVED]

    def answer() -> Response:
        question, wanted = parse_inference(content, Headers(scope=scope).get(HEAD_LENGTH))
        columns = score_question(served, question, scope[SHADOW])
        return format_inference(columns, wanted, served.version.name, str(served.version.version))

    return explain_absence(scope) or await answer_in_time(answer, refuse_inference)


def explain_absence(scope: Scope) -> Response | None:
    """Returns the answer to who asks for another model or version than the one that is served."""
    served, asked = scope[SERVED].version, scope["path_params"]
    if asked["name"] == served.name and asked.get("version", str(served.version)) == str(served.version):
        return None
    return refuse_inference("no such model or version is served here; /model says which is", 404)


def score_question(served: ServedVersion, question: Question, shadow: Shadow | None) -> Columns:
    columns = served.model.score(question.images, dict(question.params))
    if shadow:
        shadow.offer(question, columns)
    if question.names is not None:
        columns[IMAGE] = list(question.names)
    count_images(columns[ERROR])
    return columns


async def answer_in_time(answer: Callable[[], Response], refuse: Refuse) -> Response:
    """Calls `answer` in a thread, for the current call. The operator's log tells more than the caller is told."""
    seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    try:
        return await asyncio.wait_for(asyncio.to_thread(answer), seconds)
    except asyncio.TimeoutError:
        return refuse("not done in time", 504)
    except MlflowResnetError as error:
        _logger.warning("refused: %s", error)
        return refuse(str(error)[:LONGEST_REASON], error.get_http_status_code())
    except Exception:
        _logger.exception("a request failed")
        call = CALL.get()
        return refuse(FAILED if call and call.is_scored else "the request could not be answered", 500)


def refuse_invocation(message: str, status: int) -> Response:
    """The answer of `/invocations` to what it does not take, as MLflow writes it."""
    return JSONResponse({"error_code": ERROR_CODES.get(status, "INVALID_PARAMETER_VALUE"), "message": message}, status)


def refuse_inference(message: str, status: int) -> Response:
    """The answer of the Open Inference Protocol to what it does not take."""
    return JSONResponse({"error": message}, status)
