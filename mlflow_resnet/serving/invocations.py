"""What is answered to a body that was taken in: MLflow parses it, the model predicts, refusals are short."""

from __future__ import annotations

import asyncio
from functools import partial

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.pyfunc import PyFuncModel, scoring_server
from starlette.responses import JSONResponse, Response

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.scoring.over_http.mlflows_server import answer_shortly
from mlflow_resnet.scoring.sentences import LONGEST_REASON


async def answer_invocation(model: PyFuncModel, kind: str, content: bytes) -> Response:
    """Returns the predictions for a body, or why there are none."""
    answer = partial(scoring_server.invocations, content, kind, model, model.metadata.get_input_schema())
    seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    try:
        answered = await asyncio.wait_for(asyncio.to_thread(answer_shortly, answer), seconds)
    except asyncio.TimeoutError:
        return build_refusal(504, "DEADLINE_EXCEEDED", "not done in time")
    except MlflowResnetError as error:
        return build_refusal(error.get_http_status_code(), error.error_code, str(error)[:LONGEST_REASON])
    return Response(answered.response, answered.status, media_type=answered.mimetype)


def build_refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error_code": code, "message": message}, status)
