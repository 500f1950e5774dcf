"""Copies objects to a cache on this machine: one that is there is not moved again.

A cached object is known by bucket, key and ETag, so an object that was replaced is another one. Nothing removes old
ones: the folder may be deleted at any time between runs.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_resnet.io.atomic import new_file
from mlflow_resnet.io.parallel import map_ordered
from mlflow_resnet.io.s3.access import CONNECTIONS, patiently
from mlflow_resnet.io.s3.listing import Location, StoredObject

THREADS = CONNECTIONS // 2
CHUNK_BYTES = 2**20
PLAIN_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}$")


def copy_objects(
    client: Any,
    location: Location,
    found: Sequence[StoredObject],
    cache: Path,
    on_object: Callable[[], object] = lambda: None,
    limit: int | None = None,
) -> tuple[str, ...]:
    """Copies missing objects to `cache` and returns the paths of all.

    Calls `on_object` after each, in the caller's thread. Of one that is larger than `limit`, so many bytes are copied.
    Raises InvalidDatasetError if an object is gone, or no longer the one that was listed, or breaks off every time; and
    OutputError about the cache.
    """

    def fetch(each: StoredObject) -> str:
        path = choose_cache_path(cache, location, each)
        most = limit if limit and each.size > limit else None
        if not path.is_file() or path.stat().st_size != (most or each.size):
            with new_file(path) as partial, open(partial, "wb") as file:
                receive(client, location, each, file, most)
        return str(path)

    paths = []
    for path in map_ordered(fetch, found, THREADS):
        paths.append(path)
        on_object()
    return tuple(paths)


def choose_cache_path(cache: Path, location: Location, each: StoredObject) -> Path:
    """Returns the path of an object in `cache`. Of its key nothing but a plain suffix becomes a part of the path."""
    digest = hashlib.sha256(f"{each.key}\0{each.etag}".encode()).hexdigest()
    suffix = PLAIN_SUFFIX.search(each.key)
    return cache / "s3" / location.bucket / digest[:2] / (digest[2:] + (suffix[0] if suffix else ""))


def read_content(client: Any, location: Location, each: StoredObject, limit: int) -> bytes:
    """The object as it was listed, but not more than `limit` + 1 bytes of it."""
    file = io.BytesIO()
    receive(client, location, each, file, limit + 1)
    return file.getvalue()


def receive(client: Any, location: Location, each: StoredObject, file: BinaryIO, limit: int | None = None) -> None:
    """Writes the object as it was listed, or as it is if it was not, to `file`, or its first `limit` bytes."""
    condition = {"IfMatch": each.etag} if each.etag else {}

    def request() -> None:
        file.seek(0)
        file.truncate()
        body = client.get_object(Bucket=location.bucket, Key=each.key, **condition)["Body"]
        if limit:
            file.write(body.read(limit))
        else:
            shutil.copyfileobj(body, file, CHUNK_BYTES)

    patiently(location.make_uri(each.key), request)
