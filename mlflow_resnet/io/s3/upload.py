"""Sends files to S3 so that a partly sent folder is not mistaken for a whole one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, ObjectUnreadableError, OutputError, StoreUnreachableError
from mlflow_resnet.io.file_names import quote_name
from mlflow_resnet.io.parallel import map_ordered
from mlflow_resnet.io.s3.access import MEANINGS, connect_s3, patiently
from mlflow_resnet.io.s3.listing import UNFINISHED, Location, StoredObject, list_objects, parse_location
from mlflow_resnet.io.s3.transfer import THREADS, read_content

ATTEMPTS = 5  # at one part of a file: a large one would take too long to be sent anew
MAX_KEY_BYTES = 1024


class UploadedFile:
    """One object to write: it appears whole or not at all, and replaces an existing one."""

    def __init__(self, uri: str) -> None:
        self.uri, self.location = uri, locate_output(uri)
        if not self.location.key or self.location.key.endswith("/"):
            raise OutputError(uri, "is a prefix; give the name of a file")
        with write_errors(uri):
            self.client = connect_s3(uri, ATTEMPTS)

    def check(self) -> None:
        """Raises OutputError if it cannot be written: begins to write it, and takes that back."""
        request = {"Bucket": self.location.bucket, "Key": self.location.key}
        with write_errors(self.uri):
            begun = patiently(self.uri, partial(self.client.create_multipart_upload, **request))
            with suppress(InvalidDatasetError):  # nobody sees what was begun
                abort = partial(self.client.abort_multipart_upload, **request, UploadId=begun["UploadId"])
                patiently(self.uri, abort)

    def send(self, path: Path) -> None:
        """Raises OutputError, or StoreUnreachableError if S3 does not answer."""
        with write_errors(self.uri):
            send_file(self.client, self.location, path, self.location.key)


class UploadedFolder:
    """A prefix that is to be filled. As long as it is not whole, it has an object UNFINISHED with the caller's token.

    Any method raises OutputError, or StoreUnreachableError if S3 does not answer.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.token, self.location = uri, b"", locate_output(uri)
        self.marker = self.location.prefix + UNFINISHED
        self.sent: list[str] = []  # keys, those that an earlier call left among them
        self.is_marked = False
        with write_errors(uri):
            self.client = connect_s3(uri, ATTEMPTS)

    def begin(self, token: str) -> None:
        """Raises OutputError if the prefix is not empty, or nothing can be written to it or removed from it."""
        self.token = token.encode()
        with write_errors(self.uri):
            self.sent = self.find_leftovers()
            if not self.sent:
                self.mark()
                self.unmark()

    def send(self, folder: Path, last: Sequence[str] = ()) -> None:
        """Sends all files in `folder`, those with the names `last` at the end. Then `finish` is to be called."""
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for name in names:
            check_key(self.uri, self.location.prefix + name)

        def send_one(name: str) -> None:
            key = self.location.prefix + name
            self.sent.append(key)
            send_file(self.client, self.location, folder / name, key)

        with write_errors(self.uri):
            leftovers = self.find_leftovers()
            self.mark()
            self.remove(leftovers)
            for now in (set(names) - set(last), set(names) & set(last)):
                list(map_ordered(send_one, sorted(now), THREADS))

    def finish(self) -> None:
        """The prefix is whole from now on."""
        with write_errors(self.uri):
            self.unmark()

    def withdraw(self) -> None:
        """Removes what was sent."""
        with write_errors(self.uri):
            self.remove(self.sent)
            if self.is_marked:
                self.unmark()

    def find_leftovers(self) -> list[str]:
        """The keys of an interrupted call with the same token. Raises OutputError if there is anything else."""
        found = list_objects(self.client, self.location, self.location.prefix)
        if (first := next(found, None)) is None:
            return []
        try:
            marker = StoredObject(UNFINISHED, self.marker, size=0, etag="")
            token = read_content(self.client, self.location, marker, len(self.token))
        except ObjectUnreadableError:
            raise OutputError(self.uri, "is not empty; give a new prefix, or empty this one") from None
        if token != self.token:
            problem = "is being written by another call, or one was killed while it wrote. If so, remove what is there"
            raise OutputError(self.uri, problem)
        self.is_marked = True
        return [each.key for each in (first, *found) if each.key != self.marker]

    def mark(self) -> None:
        put = partial(self.client.put_object, Bucket=self.location.bucket, Key=self.marker, Body=self.token)
        patiently(self.uri, put)
        self.is_marked = True

    def unmark(self) -> None:
        self.remove([self.marker])
        self.is_marked = False

    def remove(self, keys: Iterable[str]) -> None:
        def remove_one(key: str) -> None:
            patiently(self.uri, partial(self.client.delete_object, Bucket=self.location.bucket, Key=key))

        list(map_ordered(remove_one, keys, THREADS))


def locate_output(uri: str) -> Location:
    """Returns the location of `uri`. Raises OutputError if there can be none, or its key is not usable as a path."""
    try:
        location = parse_location(uri)
    except InvalidDatasetError as error:
        raise OutputError(uri, error.problem) from None
    parts = location.key.removesuffix("/").split("/") if location.key else []
    if any(part in ("", ".", "..") for part in parts):
        raise OutputError(uri, "has an empty part, or one that is '.' or '..'; write s3://bucket/prefix")
    check_key(uri, location.key)
    return location


def check_key(uri: str, key: str) -> None:
    """Raises OutputError about `uri` for a key that S3 does not take."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise OutputError(uri, f"{quote_name(key)} cannot be the key of an object, because it is not UTF-8") from None
    if size > MAX_KEY_BYTES:
        problem = f"cannot be the key of an object, because it has {size} bytes and {MAX_KEY_BYTES} are allowed"
        raise OutputError(uri, f"{quote_name(key)} {problem}")


def send_file(client: Any, location: Location, path: Path, key: str) -> None:
    """Copies a file to the object `key`, which appears when it is whole."""
    from boto3.s3.transfer import TransferConfig

    def request() -> None:
        with open(path, "rb") as file:
            client.upload_fileobj(file, location.bucket, key, Config=TransferConfig(use_threads=False))

    patiently(location.make_uri(key), request)


@contextmanager
def write_errors(uri: str) -> Iterator[None]:
    """Turns errors of S3 into errors of the output, unless a retry may help."""
    try:
        yield
    except StoreUnreachableError:
        raise
    except InvalidDatasetError as error:
        problem = "there is no such bucket" if error.problem == MEANINGS["404"] else error.problem
        raise OutputError(uri, problem) from None
