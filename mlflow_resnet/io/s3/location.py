"""Names of places in S3."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.io.text.places import S3

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


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
    """The place that `uri` names. Nothing in it is decoded or left out: a key may hold any character but NUL.

    Raises:
        InvalidDatasetError: if there can be no such place.
    """
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not BUCKET.fullmatch(bucket):
        name = without_credentials(S3 + bucket).removeprefix(S3)
        problem = f"{name!r} is no name of a bucket: 3 to 63 lowercase letters, digits, dots and hyphens"
        raise InvalidDatasetError(uri, f"{problem}. Write s3://bucket/prefix.")
    if "\0" in key:
        raise InvalidDatasetError(uri, "a key with a NUL cannot be asked for")
    return Location(bucket, key)
