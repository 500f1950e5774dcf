"""Kinds of bodies, told from the headers of a request."""

from __future__ import annotations

from starlette.datastructures import Headers

from mlflow_resnet.scoring.over_http.bodies import CONTENT_TYPES, CSV, JSON, PARQUET, check_encoding, find_content_type
from mlflow_resnet.serving.protocols.inference import HEAD_LENGTH

PICTURE, FORM = "image/*", "multipart/form-data"
INFERENCE, BINARY_INFERENCE = "inference", "inference with binary tensors"
OCTETS = "application/octet-stream"
TAKEN = (*CONTENT_TYPES, PICTURE, FORM)
NAMES = {  # in metrics
    **{JSON: "json", CSV: "csv", PARQUET: "parquet", PICTURE: "picture", FORM: "form"},
    **{INFERENCE: "inference", BINARY_INFERENCE: "binary inference"},
}


def find_invocation_kind(headers: Headers) -> str:
    """Raises RefusedBodyError if the Content-Type is none of `TAKEN`, or the body is packed."""
    content_type, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind in (OCTETS, FORM):
        check_encoding(encoding)
        return FORM if kind == FORM else PICTURE
    return find_content_type(content_type, encoding, TAKEN)


def find_inference_kind(headers: Headers) -> str:
    """Clients of the protocol send any Content-Type, or none. Raises RefusedBodyError if the body is packed."""
    check_encoding(headers.get("content-encoding", ""))
    return BINARY_INFERENCE if HEAD_LENGTH in headers else INFERENCE
