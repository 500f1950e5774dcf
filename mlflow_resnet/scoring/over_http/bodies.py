"""Checks request bodies before they are parsed.

Parsers of JSON, CSV and Parquet take memory and time out of all proportion to what they are given, and some of them
hold up the whole process meanwhile. What is checked here takes time in proportion to a body's bytes, and can be done in
a thread.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from itertools import accumulate

from mlflow_resnet.errors import InvalidTableError, RefusedBodyError
from mlflow_resnet.io.parquet import ParquetLimits, TooManyRowsError, check_parquet

MIB = 2**20
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
CONTENT_TYPES = (JSON, CSV, PARQUET)
# What is said of bodies that cannot be parsed, here and by whoever parses them.
INVALID_JSON = "the body is not valid JSON"
NOT_ONE_FORM = "the JSON must be an object with exactly one of inputs, instances, dataframe_split and dataframe_records"
UNREADABLE_CSV, UNREADABLE_PARQUET = "the body cannot be read as CSV", "the body cannot be read as Parquet"
PARAMS_NO_OBJECT = "params must be an object"
MAX_VALUES = 10_000  # of a JSON text: numbers, texts, lists, objects
MAX_JSON_DEPTH = 16
MAX_JSON_DIGITS = 400  # of a number: no float has more before its exponent
MAX_CELLS = 1_000_000  # of a CSV table

# a pair of surrogates, or a half of one; before it an even number of backslashes, which stand for themselves
_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_BRACKET = re.compile(rb"[\[\]{}]")
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_JSON_DIGITS + 1))


def find_content_type(content_type: str, content_encoding: str = "", taken: tuple[str, ...] = CONTENT_TYPES) -> str:
    """Returns the content type of a body of JSON, CSV or Parquet, from two headers of its request.

    Args:
        taken: what else the server takes too, to be told.

    Raises:
        RefusedBodyError: if it is none, or is packed.
    """
    check_encoding(content_encoding)
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind not in CONTENT_TYPES:
        raise RefusedBodyError(f"the Content-Type is not known here; send one of {', '.join(taken)}", 415)
    if not {parameter.replace('"', "").replace(" ", "") for parameter in parameters} <= {"", "charset=utf-8"}:
        raise RefusedBodyError("the Content-Type has parameters; only charset=utf-8 is known here", 415)
    return kind


def check_encoding(content_encoding: str) -> None:
    """Raises RefusedBodyError if a body is packed."""
    if content_encoding.strip().lower() not in ("", "identity"):
        raise RefusedBodyError("the body has a Content-Encoding; send it as it is", 415)


def check_body(kind: str, content: bytes, max_bytes: int, max_images: int) -> tuple[bytes, int]:
    """A body of this kind that can be parsed at a bounded price, and the bytes that it takes once it is parsed.

    It is `content`, or the same without what no text may hold.

    Args:
        max_bytes: of Parquet once it is decoded; the caller limits what is sent.

    Raises:
        RefusedBodyError: in one sentence that repeats nothing of it, if it is too much, or damaged.
    """
    if kind == JSON:
        return check_json(content), len(content)
    if kind == CSV:
        check_csv(content)
        return content, len(content)
    return content, bound_decoded_size(content, max_bytes, max_images)


def check_json(content: bytes) -> bytes:
    """A JSON text that is no heavier parsed than its strings are. Halves of surrogate pairs become U+FFFD."""
    if json.detect_encoding(content) not in ("utf-8", "utf-8-sig") or not is_utf8_content(content):
        raise RefusedBodyError("the JSON is not in UTF-8")
    unescaped = content
    if b"\\" in content:
        content = _SURROGATES.sub(lambda found: found[0] if found[2] else found[1] + rb"\ufffd", content)
        unescaped = content.replace(rb"\\", b"").replace(rb"\"", b"")
    too_many = RefusedBodyError(f"the JSON has more than {MAX_VALUES} values; send several requests, or Parquet")
    if unescaped.count(b'"') > 4 * MAX_VALUES:  # a value may have a name
        raise too_many
    structure = b" ".join(list_outside_quotes(unescaped))
    if structure.count(b",") + structure.count(b"[") + structure.count(b"{") > MAX_VALUES:
        raise too_many
    if structure.count(b"]") + structure.count(b"}") > MAX_VALUES:
        raise RefusedBodyError(INVALID_JSON)
    if _LONG_NUMBER.search(structure):
        raise RefusedBodyError(f"the JSON has a number of more than {MAX_JSON_DIGITS} digits")
    depths = accumulate(1 if bracket in b"[{" else -1 for bracket in _BRACKET.findall(structure))
    if max(depths, default=0) > MAX_JSON_DEPTH:
        raise RefusedBodyError(f"the JSON is nested more than {MAX_JSON_DEPTH} deep")
    return content


def list_outside_quotes(text: bytes) -> Iterator[bytes]:
    """The parts of a text that are not between double quotes; faster than a regular expression."""
    position = 0
    while (begin := text.find(b'"', position)) >= 0:
        yield text[position:begin]
        end = text.find(b'"', begin + 1)
        if end < 0:
            return
        position = end + 1
    yield text[position:]


def check_csv(content: bytes) -> None:
    """Raises RefusedBodyError unless a CSV text has a bounded number of cells, those counted that rows leave out."""
    if not is_utf8_content(content):
        raise RefusedBodyError("the CSV is not in UTF-8")
    rows = content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n") + 1
    columns = content.count(b",") + 1  # of the longest row, at most
    if rows * columns > MAX_CELLS:
        raise RefusedBodyError("the CSV has too many rows and columns; send several requests, or Parquet")


def bound_decoded_size(content: bytes, max_bytes: int, max_images: int) -> int:
    """Bytes that a Parquet file takes at most once it is decoded: the lower of two bounds, if that holds.

    Raises:
        RefusedBodyError: if none does, or if it has more rows than a request may have images.
    """
    most = 2 * max_bytes
    for size in (min(2 * len(content) + MIB, most), most):
        try:
            check_parquet(io.BytesIO(content), ParquetLimits(max_images, size, min(size, max_bytes)))
            return size
        except TooManyRowsError as error:
            problem = f"{error.rows} images in one request, over the limit of {max_images}; send several requests"
            raise RefusedBodyError(problem) from None
        except InvalidTableError as error:
            refusal = RefusedBodyError(f"the Parquet file cannot be taken: {without_words_of_others(error.message)}")
    raise refusal


def without_words_of_others(sentence: str) -> str:
    """Removes parenthesized foreign text, such as hosts, ports, URIs and paths, from our sentence."""
    return re.sub(r" \(.*\)", "", sentence, flags=re.DOTALL)


def is_utf8_content(content: bytes) -> bool:
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
