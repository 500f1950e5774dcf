"""The OpenAPI description of what is answered here, of the model that is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mlflow_resnet._version import __version__
from mlflow_resnet.options.predict import PARAMS, PredictOptions
from mlflow_resnet.scoring.columns import ERROR, IMAGE, SCORED_LABELS, probability_columns
from mlflow_resnet.scoring.over_http.bodies import CSV, JSON, PARQUET
from mlflow_resnet.serving.protocols.body_kinds import FORM, OCTETS
from mlflow_resnet.serving.protocols.mlflow_forms import FORMS

SCHEMA_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
BINARY_SCHEMA: dict[str, Any] = {"type": "string", "format": "binary"}
TEXT_SCHEMA: dict[str, Any] = {"type": "string"}
NUMBER_OR_NULL: dict[str, Any] = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
REFUSAL = {"$ref": "#/components/schemas/Refusal"}
STATUSES = {
    "400": "The request cannot be used; `message` says why.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The Content-Type is not known, or the body is packed.",
    "503": "Too busy to answer in time; `Retry-After` says when to try again.",
    "504": "Not done in time.",
}


def describe_api(name: str, version: str, classes: Sequence[str]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    params = {field.name: describe_param(field.name, field.metadata["help"]) for field in fields(PredictOptions)}
    table = {"type": "object", "properties": {form: {} for form in FORMS} | {"params": nest(params)}}
    form = nest({"image": {"type": "array", "items": BINARY_SCHEMA}} | params)
    bodies = {
        "image/*": BINARY_SCHEMA,
        OCTETS: BINARY_SCHEMA,
        FORM: form,
        JSON: table,
        CSV: TEXT_SCHEMA,
        PARQUET: BINARY_SCHEMA,
    }
    query = [{"name": each, "in": "query", "schema": schema} for each, schema in params.items()]
    invocation = {
        "summary": "Predict: one picture as the body, several as files of a form, or base64 in a table",
        "operationId": "invoke",
        "parameters": query,
        "requestBody": {"required": True, "content": build_content(bodies)},
        "responses": {"200": build_response("A row for each image", "Predictions"), **describe_refusals()},
    }
    inference = {
        "summary": "Predict by the Open Inference Protocol",
        "operationId": "infer",
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"const": name}}],
        "requestBody": {"required": True, "content": build_content({JSON: {"type": "object"}, OCTETS: BINARY_SCHEMA})},
        "responses": {"200": {"description": "An output for each column", "content": build_content({JSON: {}})}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{name}, version {version}", "version": __version__},
        "paths": {
            "/invocations": {"post": invocation},
            "/v2/models/{name}/infer": {"post": inference},
            "/model": {"get": get("Which version answers", "getModel")},
            "/ping": {"get": get("Whether this server answers", "ping")},
            "/metrics": {"get": get("Metrics for Prometheus", "getMetrics", "text/plain")},
        },
        "components": {"schemas": describe_schemas(classes)},
    }


def describe_param(name: str, text: str) -> dict[str, Any]:
    return {"type": SCHEMA_TYPES[type(PARAMS[name])], "default": PARAMS[name], "description": text}


def describe_schemas(classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {IMAGE: TEXT_SCHEMA, SCORED_LABELS: {"enum": [*classes, None]}, ERROR: TEXT_SCHEMA}
    row |= dict.fromkeys(probability_columns(classes), NUMBER_OR_NULL)
    rows = {"type": "array", "items": nest(row, [IMAGE, SCORED_LABELS, ERROR])}
    refusal = {"error_code": TEXT_SCHEMA, "message": TEXT_SCHEMA}
    return {"Predictions": nest({"predictions": rows}, ["predictions"]), "Refusal": nest(refusal, list(refusal))}


def describe_refusals() -> dict[str, Any]:
    content = build_content({JSON: REFUSAL})
    return {status: {"description": text, "content": content} for status, text in STATUSES.items()}


def build_content(schemas: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


def nest(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), **({"required": list(required)} if required else {})}


def build_response(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": build_content({JSON: {"$ref": f"#/components/schemas/{schema}"}})}


def get(summary: str, operation: str, kind: str = JSON) -> dict[str, Any]:
    content = build_content({kind: {}})
    return {"summary": summary, "operationId": operation, "responses": {"200": {"description": "", "content": content}}}
