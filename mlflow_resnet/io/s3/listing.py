"""Lists objects below a prefix. Keys are untrusted input and are checked before they become paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, join_names, printable
from mlflow_resnet.io.file_names import name_problem
from mlflow_resnet.io.s3.access import patiently
from mlflow_resnet.io.s3.location import Location

KEYS_PER_PAGE = 1000  # the most that S3 gives
UNFINISHED = ".mlflow-resnet-unfinished"  # an object in a prefix that is being written; its name comes early in a list


@dataclass(frozen=True)
class StoredObject:
    """One object: `name` is its key without the prefix."""

    name: str
    key: str
    size: int  # bytes
    etag: str


def objects(client: Any, location: Location) -> Iterator[StoredObject]:
    """Every object in `location`, by key, page by page: the first come before the listing ends.

    If the key is that of a single object, and nothing lies below it, it is that object, with the last part of its key
    as name. Markers of folders, empty and with a "/" at the end, are left out.

    Raises:
        InvalidDatasetError: as soon as it shows that a call of ours has not written all of it.
    """
    below = check_finished(location, list_objects(client, location, location.prefix))
    first = next(below, None)
    if first is None and location.key and not location.key.endswith("/"):
        exact = (found for found in list_objects(client, location, location.key) if found.key == location.key)
        yield from (StoredObject(each.key.rpartition("/")[2], each.key, each.size, each.etag) for each in exact)
    if first is not None:
        yield first
        yield from below


def check_finished(location: Location, found: Iterable[StoredObject]) -> Iterator[StoredObject]:
    for each in found:
        if each.name == UNFINISHED:
            problem = "is not whole: a call is writing to it, or was killed while it wrote. Give that command again"
            raise InvalidDatasetError(location.make_uri(location.prefix), problem)
        yield each


def list_objects(client: Any, location: Location, prefix: str) -> Iterator[StoredObject]:
    """The objects whose keys begin with `prefix`."""
    following: dict[str, str] = {}
    while True:
        request = {"Bucket": location.bucket, "Prefix": prefix, "MaxKeys": KEYS_PER_PAGE} | following
        page = patiently(location.make_uri(location.prefix), partial(client.list_objects_v2, **request))
        for found in page.get("Contents", ()):
            if not (found["Key"].endswith("/") and found["Size"] == 0):
                key = found["Key"]
                yield StoredObject(key.removeprefix(prefix), key, found["Size"], found["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            return
        following = {"ContinuationToken": page["NextContinuationToken"]}


def check_names(uri: str, found: Iterable[StoredObject]) -> None:
    """Raises InvalidDatasetError for names that a directory cannot hold side by side, or that lead out of it."""
    names = [each.name for each in found]
    refused = {name: problem for name in names if (problem := name_problem(name))}
    folders = {folder for name in names for folder in list_parents(name)}
    refused |= {name: "is an object and a prefix of others" for name in names if name in folders}
    refused |= dict.fromkeys(twins([*names, *folders]), "differs from another only in case")
    if refused:
        reasons = join_names(f"{printable(name)!r} ({reason})" for name, reason in refused.items())
        raise InvalidDatasetError(uri, f"refused because of the keys {reasons}. Rename these objects.")


def list_parents(name: str) -> Iterator[str]:
    """`a` and `a/b` of `a/b/c.png`."""
    *folders, _ = name.split("/")
    return itertools.accumulate(folders, "{}/{}".format)


def twins(names: Iterable[str]) -> list[str]:
    """Names that some file systems cannot tell from another one before them."""
    first: dict[str, str] = {}
    return [name for name in names if first.setdefault(name.casefold(), name) != name]
