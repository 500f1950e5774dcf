"""Scores files on a server, `mlflow models serve` or `mlflow-resnet serve`, and needs neither torch nor the model."""

from __future__ import annotations

import base64
import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mlflow_resnet.errors import InvalidImageError, ScoringServerError
from mlflow_resnet.images.sources import file_source
from mlflow_resnet.io.parallel import map_ordered
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.mlflow_seams import ERROR_MARK

BATCH_BYTES = 16 * 2**20  # of files in one request, unless a single one is larger
RETRIES = 8  # of a request to a busy server, after what it asks for or 0.5, 1, 2, … seconds
LONGEST_PAUSE = 30  # seconds
PARQUET_HEADERS = {"Content-Type": "application/vnd.apache.parquet"}

Row = dict[str, Any]


def score_images(
    url: str,
    paths: Iterable[str | os.PathLike[str]],
    *,
    batch_size: int = 32,
    requests_at_once: int = 2,
    timeout_seconds: float = 120,
    **params: Any,
) -> pd.DataFrame:
    """Scores image files over HTTP.

    Args:
        url: of the server, such as http://127.0.0.1:5001.
        batch_size: files per request, fewer if they are large.
        requests_at_once: so that the server reads one request while it answers another.
        timeout_seconds: for the answer to one request.
        params: of predict, such as `top_k=3`. Requests with them are JSON, and a third larger.

    Returns:
        The columns that predict gives. One row for every path, in order; of a file that cannot be read, `error` says
        why.

    Raises:
        ScoringServerError: if the server does not answer, or refuses a request. A busy one is asked again for a while.
    """
    with session(requests_at_once) as http:
        ask = partial(score_batch, http, f"{url.rstrip('/')}/invocations", params, timeout_seconds)
        answers = map_ordered(ask, batches((os.fspath(path) for path in paths), batch_size), requests_at_once)
        rows = [row for answer in answers for row in answer]
    columns = {name: [row.get(name) for row in rows] for name in max(map(list, rows), key=len, default=[])}
    return pd.DataFrame({name: pd.Series(cells, dtype=choose_type(cells)) for name, cells in columns.items()})


def choose_type(cells: Sequence[object]) -> type | None:
    """Returns the type of a column: that of predict for texts, and what pandas finds for numbers."""
    return object if any(isinstance(cell, str) for cell in cells) else None


def session(connections: int) -> requests.Session:
    """Returns a session that keeps connections open and retries when a server is busy."""
    retries = Retry(
        connect=0,
        read=0,
        other=0,
        status=RETRIES,
        status_forcelist=(429, 503),
        allowed_methods=("POST",),
        backoff_factor=0.5,
        backoff_max=LONGEST_PAUSE,
        raise_on_status=False,
    )
    http = requests.Session()
    for scheme in ("http://", "https://"):
        http.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=retries))
    return http


def batches(paths: Iterable[str], batch_size: int) -> Iterator[list[str]]:
    """`paths` in lists of up to `batch_size`, whose files have up to BATCH_BYTES together."""
    batch: list[str] = []
    total = 0
    for path in paths:
        size = 0
        with contextlib.suppress(OSError):  # there is none
            size = os.path.getsize(path)
        if batch and (len(batch) == batch_size or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(path)
        total += size
    if batch:
        yield batch


def score_batch(
    http: requests.Session, url: str, params: dict[str, Any], timeout: float, paths: Sequence[str]
) -> list[Row]:
    """A row for each of `paths`."""
    contents = [content_or_error(path) for path in paths]
    readable = [content for content in contents if isinstance(content, bytes)]
    answered = iter(answer(http, url, params, timeout, readable) if readable else ())
    rows = [next(answered) if isinstance(c, bytes) else {"Scored Labels": None, "error": c} for c in contents]
    return [{"image": path} | row | {"image": path} for path, row in zip(paths, rows, strict=True)]


def content_or_error(path: str) -> bytes | str:
    """Returns the bytes of a file, or the reason why it cannot be read."""
    try:
        return file_source(path).read()
    except InvalidImageError as error:
        return error.message


def answer(
    http: requests.Session, url: str, params: dict[str, Any], timeout: float, contents: Sequence[bytes]
) -> list[Row]:
    """The server's rows for some images. Raises ScoringServerError if it has none."""
    body: dict[str, Any]
    if params:  # which Parquet cannot carry
        data = [[base64.b64encode(content).decode()] for content in contents]
        body = {"json": {"dataframe_split": {"columns": ["image"], "data": data}, "params": params}}
    else:
        file = io.BytesIO()
        pd.DataFrame({"image": contents}).to_parquet(file, compression=None)
        body = {"data": file.getvalue(), "headers": PARQUET_HEADERS}
    try:
        response = http.post(url, timeout=timeout, **body)
        rows = response.json()["predictions"] if response.ok else []
    except requests.Timeout:
        raise ScoringServerError(url, f"no answer within {timeout:g} s. Send fewer images at once.") from None
    except requests.ConnectionError:
        raise ScoringServerError(url, "nobody answers. Start the server, or correct the address.") from None
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        problem = f"no answer of a model of mlflow_resnet ({one_line(error)}). Correct the address."
        raise ScoringServerError(url, problem) from None
    if not response.ok:
        raise ScoringServerError(url, f"answered {response.status_code}: {extract_reason(response)}")
    if len(rows) != len(contents):
        raise ScoringServerError(url, f"answered with {len(rows)} rows to {len(contents)} images.")
    return rows


def extract_reason(response: requests.Response) -> str:
    """Returns the server's reason for refusing a request, in one line."""
    try:
        facts = response.json()
        text = str(facts.get("message") or facts.get("detail"))
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.rpartition(ERROR_MARK)[2].split())[:500]
