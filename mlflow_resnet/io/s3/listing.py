"""Places in S3, and the objects below them. Keys are untrusted input and are checked before they become paths."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, join_names, printable
from mlflow_resnet.io.file_names import name_problem
from mlflow_resnet.io.s3.access import patiently
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.io.text.places import S3

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
KEYS_PER_PAGE = 1000  # the most that S3 gives
UNFINISHED = ".mlflow-resnet-unfinished"  # an object in a prefix that is being written; its name comes early in a list


@dataclass(frozen=True)
class Location:
    """`s3://bucket/key`, where the key is that of an object or, with or without a "/" at its end, a prefix."""

    bucket: str
    key: str

    @property
    def prefix(self) -> str:
        """What the keys of the objects in this place begin with; empty for a whole bucket."""
        return f"{self.key.rstrip('/')}/" if self.key else ""

    def make_uri(self, key: str) -> str:
        """Returns the URI of a key in the same bucket."""
        return f"{S3}{self.bucket}/{key}"


def parse_location(uri: str) -> Location:
    """The place that `uri` names; nothing in it is decoded or left out. Raises InvalidDatasetError if it is none."""
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not BUCKET.fullmatch(bucket):
        name = without_credentials(S3 + bucket).removeprefix(S3)
        problem = f"{name!r} is no name of a bucket: 3 to 63 lowercase letters, digits, dots and hyphens"
        raise InvalidDatasetError(uri, f"{problem}. Write s3://bucket/prefix.")
    if "\0" in key:
        raise InvalidDatasetError(uri, "a key with a NUL cannot be asked for")
    return Location(bucket, key)


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

    Raises InvalidDatasetError as soon as it shows that a call of ours has not written all of it.
    """
    below = list_objects(client, location, location.prefix)
    first = next(below, None)
    if first is None and location.key and not location.key.endswith("/"):
        exact = (found for found in list_objects(client, location, location.key) if found.key == location.key)
        yield from (StoredObject(each.key.rpartition("/")[2], each.key, each.size, each.etag) for each in exact)
    for each in itertools.chain([first] if first else [], below):
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
                name = found["Key"].removeprefix(prefix)
                yield StoredObject(name, found["Key"], found["Size"], found["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            return
        following = {"ContinuationToken": page["NextContinuationToken"]}


def check_names(uri: str, found: Iterable[StoredObject]) -> None:
    """Raises InvalidDatasetError for names that a directory cannot hold side by side, or that lead out of it."""
    names = [each.name for each in found]
    refused = {name: problem for name in names if (problem := name_problem(name))}
    folders = {folder for name in names for folder in list_parents(name)}
    refused |= {name: "is an object and a prefix of others" for name in names if name in folders}
    first: dict[str, str] = {}  # of those that some file systems cannot tell from each other
    twins = [name for name in [*names, *folders] if first.setdefault(name.casefold(), name) != name]
    refused |= dict.fromkeys(twins, "differs from another only in case")
    if refused:
        reasons = join_names(f"{printable(name)!r} ({reason})" for name, reason in refused.items())
        raise InvalidDatasetError(uri, f"refused because of the keys {reasons}. Rename these objects.")


def list_parents(name: str) -> Iterator[str]:
    """`a` and `a/b` of `a/b/c.png`."""
    *folders, _ = name.split("/")
    return itertools.accumulate(folders, "{}/{}".format)
