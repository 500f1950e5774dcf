"""Version 2 of the Open Inference Protocol over HTTP, with its extension for binary tensors.

https://github.com/kserve/open-inference-protocol; the extension is Triton's. A picture is an element of a BYTES tensor:
base64 in JSON, the file itself in a binary tensor. Each column of `predict` is an output: texts are BYTES, numbers
FP64. What is missing is "" or, in JSON, null; in a binary tensor NaN.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from starlette.responses import Response

from mlflow_resnet.errors import RefusedBodyError
from mlflow_resnet.scoring.columns import Column, Columns, as_list, probability_columns, text_columns
from mlflow_resnet.scoring.over_http.bodies import check_json
from mlflow_resnet.serving.protocols.mlflow_forms import load_json
from mlflow_resnet.serving.protocols.question import Question, check_params

HEAD_LENGTH = "inference-header-content-length"  # header: bytes of JSON, after which binary tensors follow
BINARY_SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
PROTOCOL_PARAMETERS = {ALL_BINARY, "content_type", "headers", "priority", "timeout"}
SEQUENCES = {"sequence_id", "sequence_start", "sequence_end"}
BYTES, FP64 = "BYTES", "FP64"
LENGTH = struct.Struct("<I")
MAX_DIMENSIONS = 8
NO_REQUEST = "the body is no inference request; it has inputs, a list with one tensor of images"


@dataclass(frozen=True)
class Wanted:
    """How an answer is to be written.

    Attributes:
        id: of the request, to be repeated; None if it has none.
        outputs: name -> whether it is to be binary; empty: all.
        is_binary: what holds for outputs that are not named.
    """

    id: str | None
    outputs: Mapping[str, bool]
    is_binary: bool


def parse_inference(content: bytes, head_length: str | None) -> tuple[Question, Wanted]:
    """Returns what a request asks, and how it wants the answer.

    Args:
        head_length: the header of that name; None: all of `content` is JSON.

    Raises:
        RefusedBodyError: if it is no inference request for pictures.
    """
    size = len(content) if head_length is None else read_length(head_length, len(content))
    body = load_json(check_json(content[:size]))
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        raise RefusedBodyError(NO_REQUEST)
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict) or SEQUENCES & parameters.keys():
        raise RefusedBodyError("parameters must be an object, without those of sequences")
    if len(body["inputs"]) != 1:
        raise RefusedBodyError(f"{len(body['inputs'])} inputs; send one, named image, with all images")
    images = read_tensor(body["inputs"][0], memoryview(content)[size:])
    params = check_params({name: value for name, value in parameters.items() if name not in PROTOCOL_PARAMETERS})
    return Question(images, params), read_wanted(body, parameters.get(ALL_BINARY) is True)


def read_length(text: str, most: int) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) > most:
        raise RefusedBodyError("Inference-Header-Content-Length must be the number of bytes of JSON in the body")
    return int(text)


def read_tensor(tensor: Any, binary: memoryview) -> list[Any]:
    """Returns the elements of a BYTES tensor, of any shape."""
    if not isinstance(tensor, dict) or tensor.get("datatype") != BYTES:
        raise RefusedBodyError("an input must have datatype BYTES: image files, or base64 of them in JSON")
    count = count_elements(tensor.get("shape"))
    size = (tensor.get("parameters") or {}).get(BINARY_SIZE) if isinstance(tensor.get("parameters"), dict) else None
    if size is not None:
        if "data" in tensor or size != len(binary):
            raise RefusedBodyError("binary_data_size must be the number of bytes after the JSON, without other data")
        elements: list[Any] = list(split_elements(binary))
    else:
        if len(binary):
            raise RefusedBodyError("there are bytes after the JSON that no input has")
        elements = list(flatten(tensor.get("data"), MAX_DIMENSIONS))
    if len(elements) != count:
        raise RefusedBodyError(f"the shape of the input is for {count} images, and it has {len(elements)}")
    return elements


def count_elements(shape: Any) -> int:
    is_shape = isinstance(shape, list) and 0 < len(shape) <= MAX_DIMENSIONS
    if not is_shape or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise RefusedBodyError("shape must be a list of sizes, such as [2]")
    return prod(shape)


def split_elements(binary: memoryview) -> Iterator[bytes]:
    """Yields the elements of a binary BYTES tensor, each after its length."""
    position = 0
    while position < len(binary):
        begin = position + LENGTH.size
        if begin > len(binary):
            raise RefusedBodyError("the binary tensor ends within the length of an element")
        position = begin + LENGTH.unpack(binary[position:begin])[0]
        if position > len(binary):
            raise RefusedBodyError("the binary tensor ends within an element")
        yield bytes(binary[begin:position])


def flatten(data: Any, depth: int) -> Iterator[Any]:
    if not isinstance(data, list) or depth == 0:
        raise RefusedBodyError("data must be a list")
    for element in data:
        if isinstance(element, list):
            yield from flatten(element, depth - 1)
        elif isinstance(element, str):
            yield element
        else:
            raise RefusedBodyError("elements of data must be texts: base64 of image files")


def read_wanted(body: Mapping[str, Any], is_binary: bool) -> Wanted:
    outputs, request_id = body.get("outputs") or [], body.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RefusedBodyError("id must be text")
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise RefusedBodyError("outputs must be a list of objects, each with a name")
    wanted: dict[str, bool] = {}
    for output in outputs:
        parameters = output.get("parameters") or {}
        if not isinstance(output.get("name"), str) or not isinstance(parameters, dict):
            raise RefusedBodyError("outputs must be a list of objects, each with a name")
        if parameters.keys() - {BINARY}:
            raise RefusedBodyError("of the parameters of an output only binary_data is known here")
        wanted[output["name"]] = parameters.get(BINARY, is_binary) is True
    return Wanted(request_id, wanted, is_binary)


def format_inference(columns: Columns, wanted: Wanted, name: str, version: str) -> Response:
    """Writes scored columns as an inference response.

    Raises:
        RefusedBodyError: if an output is wanted that there is not.
    """
    if wanted.outputs.keys() - columns.keys():
        raise RefusedBodyError("an output is wanted that there is not; the metadata of the model names them")
    outputs, binaries = [], []
    for output_name in wanted.outputs or columns:
        column = columns[output_name]
        datatype = FP64 if isinstance(column, np.ndarray) else BYTES
        output: dict[str, Any] = {"name": output_name, "datatype": datatype, "shape": [len(column)]}
        if wanted.outputs.get(output_name, wanted.is_binary):
            binaries.append(encode_binary(column))
            output["parameters"] = {BINARY_SIZE: len(binaries[-1])}
        else:
            output["data"] = encode_values(column)
        outputs.append(output)
    facts = {"model_name": name, "model_version": version, "outputs": outputs}
    head = json.dumps(facts if wanted.id is None else {"id": wanted.id, **facts}).encode()
    if not binaries:
        return Response(head, media_type="application/json")
    headers = {HEAD_LENGTH: str(len(head))}
    return Response(b"".join((head, *binaries)), headers=headers, media_type="application/octet-stream")


def encode_binary(column: Column) -> bytes:
    if isinstance(column, np.ndarray):
        return column.astype("<f8").tobytes()
    texts = [text.encode() for text in encode_values(column)]
    return b"".join(part for text in texts for part in (LENGTH.pack(len(text)), text))


def encode_values(column: Column) -> list[Any]:
    """What is missing is "" among texts, and None, which is null in JSON, among numbers."""
    return as_list(column) if isinstance(column, np.ndarray) else [text or "" for text in column]


def describe_tensors(name: str, version: str, classes: Sequence[str]) -> dict[str, Any]:
    """The metadata of a model: its input, and the outputs that it has without params."""
    columns = ["image", "Scored Labels", *probability_columns(classes), "error"]
    texts = text_columns(columns)
    outputs = [{"name": each, "datatype": BYTES if each in texts else FP64, "shape": [-1]} for each in columns]
    inputs = [{"name": "image", "datatype": BYTES, "shape": [-1]}]
    return {"name": name, "versions": [version], "platform": "mlflow_resnet", "inputs": inputs, "outputs": outputs}


def describe_server(version: str) -> dict[str, Any]:
    return {"name": "mlflow_resnet", "version": version, "extensions": ["binary_tensor_data"]}
