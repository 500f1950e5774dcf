"""Image sources: local paths, or prefixes in S3."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, ObjectUnreadableError, encodable
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES, read_bytes
from mlflow_resnet.images.directories import LabeledDirectory, Walk, build_labeled_directory, list_labeled, walk_order
from mlflow_resnet.images.index import read_references
from mlflow_resnet.images.rules import file_kind, path_kind
from mlflow_resnet.io.file_names import leads_out
from mlflow_resnet.io.own_folders import is_artifact, private_cache
from mlflow_resnet.io.parallel import map_ordered
from mlflow_resnet.io.s3.access import MEANINGS, connect_s3
from mlflow_resnet.io.s3.listing import Location, StoredObject, check_names, objects, parse_location
from mlflow_resnet.io.s3.transfer import THREADS, copy_objects, read_content
from mlflow_resnet.io.text.places import is_remote, local_path, place_problem

TOO_LARGE = f"over the limit of {MAX_IMAGE_BYTES // 2**20} MiB for one image"
SIZE_UNKNOWN = -1


@dataclass(frozen=True)
class ImageSource:
    """One image to predict: its name, and a function that reads its bytes.

    `read` raises InvalidImageError if there are none to be had. `place` is its name below the directory or prefix that
    was listed, with "/" between the parts; empty if none was.
    """

    name: str
    read: Callable[[], bytes]
    place: str = ""


def check_directories(*uris: str) -> None:
    """Raises InvalidDatasetError for a place that there cannot be, at no cost; "" is not given."""
    for uri in filter(None, uris):
        if is_remote(uri):
            parse_location(uri)
        else:
            Walk(uri)


def file_source(
    path: str | os.PathLike[str], called: str | os.PathLike[str] | None = None, place: str = ""
) -> ImageSource:
    """An image file, called by its path if nothing else is given."""
    return ImageSource(encodable(called or path), functools.partial(read_bytes, path), place)


def make_failing_source(name: str, reason: str, place: str = "") -> ImageSource:
    """A source whose image cannot be read."""

    def read() -> bytes:
        raise InvalidImageError(reason)

    return ImageSource(name, read, place)


def directory_sources(
    uri: str,
    ignored: Counter[str],
    after: str = "",
    wanted: Callable[[str], bool] = lambda place: True,
    follow_links: bool = False,
) -> Iterator[ImageSource]:
    """Every image below a directory or prefix, called by its path or URI; `ignored` counts what else is there.

    They come in an order that their places alone decide, whatever else is there: by name, files before folders, or in
    S3 by key. Those in S3 are fetched a few ahead, while the listing goes on, and are never on disk. Only those come
    whose places are `wanted` and follow `after`, which need not exist any more; `follow_links`: see `Walk`.

    Raises InvalidDatasetError if `uri` cannot be listed, or holds nothing.
    """
    if is_remote(uri):
        images = dropwhile(lambda image: image.object.name <= after, list_stored_images(uri, ignored))
        yield from map_ordered(fetch_stored_image, (image for image in images if wanted(image.object.name)), THREADS)
        return
    if rows := read_references(uri):
        for row in dropwhile(lambda row: row.name <= after, rows):
            if wanted(row.name):
                yield file_source(row.source, place=row.name)
        return
    last = walk_order(after)
    found = Walk(uri, ignored, follow_links).images("")
    for name in filter(wanted, dropwhile(lambda name: walk_order(name) <= last, found)):
        yield file_source(os.path.join(uri, name), place=name)


def places(uri: str, ignored: Counter[str], follow_links: bool = False) -> Iterator[str]:
    """Yields the places of the images that `directory_sources` gives. Raises as it does."""
    if is_remote(uri):
        return (image.object.name for image in list_stored_images(uri, ignored))
    if rows := read_references(uri):
        return (row.name for row in rows)
    return Walk(uri, ignored, follow_links).images("")


@dataclass(frozen=True)
class StoredImage:
    """An image in S3 that was listed."""

    client: Any
    location: Location
    object: StoredObject

    @property
    def uri(self) -> str:
        return encodable(self.location.make_uri(self.object.key))

    def read(self) -> bytes:
        """Its bytes. Raises InvalidImageError if it is the cause that there are none, InvalidDatasetError if S3 is."""
        if leads_out(self.object.name):
            raise InvalidImageError("refused: its key leads out of the prefix")
        if self.object.size == 0:
            raise InvalidImageError("empty file")
        if self.object.size > MAX_IMAGE_BYTES:
            raise InvalidImageError(TOO_LARGE)
        try:
            content = read_content(self.client, self.location, self.object, MAX_IMAGE_BYTES)
        except ObjectUnreadableError as error:
            raise InvalidImageError(error.problem) from None
        if len(content) > MAX_IMAGE_BYTES:  # its size was not known before
            raise InvalidImageError(TOO_LARGE)
        return content


def list_stored_images(uri: str, ignored: Counter[str]) -> Iterator[StoredImage]:
    """The images in S3 at `uri`, in the order of their keys, as they are listed.

    Raises InvalidDatasetError if `uri` cannot be listed, or holds nothing.
    """
    client, location = connect_s3(uri), parse_location(uri)
    for found in filter_images(require_any(uri, objects(client, location)), ignored):
        yield StoredImage(client, location, found)


def fetch_stored_image(image: StoredImage) -> ImageSource:
    """Returns a source that holds the image's bytes, or the reason why there are none."""
    try:
        content = image.read()
    except InvalidImageError as error:
        return make_failing_source(image.uri, error.message, image.object.name)
    return ImageSource(image.uri, lambda: content, image.object.name)


def object_source(client: Any, uri: str, called: str, place: str) -> ImageSource:
    """Returns a source that holds the bytes of the object `uri`, or the reason why there are none."""
    try:
        location = parse_location(uri)
    except InvalidDatasetError as error:
        return make_failing_source(encodable(called), error.problem, place)
    unseen = StoredObject(location.key.rpartition("/")[2], location.key, SIZE_UNKNOWN, etag="")
    return replace(fetch_stored_image(StoredImage(client, location, unseen)), name=encodable(called), place=place)


def read_object(uri: str) -> bytes:
    """The bytes of the object `uri`. Raises as `StoredImage.read` does."""
    client, location = connect_s3(uri), parse_location(uri)
    try:
        return StoredImage(client, location, next(require_any(uri, objects(client, location)))).read()
    except InvalidDatasetError as error:
        raise InvalidImageError(error.problem) from None


def fetch_labeled_directory(
    uri: str, on_object: Callable[[], object] = lambda: None, follow_links: bool = False
) -> LabeledDirectory:
    """The class folders at `uri`, a path or a prefix in S3, whose images are copied to the cache.

    `on_object` is called after each image that is in the cache; `follow_links`: see `Walk`.
    Raises InvalidDatasetError if there are none, or they cannot be listed or copied.
    """
    if not is_remote(uri):
        return list_labeled(uri, follow_links)
    client, location, ignored = connect_s3(uri), parse_location(uri), Counter[str]()
    images = filter_images(require_any(uri, objects(client, location)), ignored)
    found = sorted(images, key=lambda each: walk_order(each.name))
    check_names(uri, found)
    inside = [each for each in found if "/" in each.name]
    ignored["beside_classes"] = len(found) - len(inside)
    paths = copy_objects(client, location, inside, private_cache(), on_object, MAX_IMAGE_BYTES + 1)
    return build_labeled_directory(uri, [each.name for each in inside], paths, ignored, objects=inside)


def local_file(uri: str) -> Path:
    """Returns the local path of the file `uri`, which is copied to the cache if it is in S3.

    Raises InvalidDatasetError if there can be no such place, if there is no object `uri`, or it cannot be copied.
    """
    uri = local_path(uri)
    if problem := place_problem(uri):
        raise InvalidDatasetError(uri, problem)
    if not is_remote(uri):
        return Path(uri)
    client, location = connect_s3(uri), parse_location(uri)
    first = next(require_any(uri, objects(client, location)))
    if first.key != location.key:
        raise InvalidDatasetError(uri, "a prefix of several objects; give the key of one")
    return Path(copy_objects(client, location, [first], private_cache())[0])


def require_any(uri: str, found: Iterator[StoredObject]) -> Iterator[StoredObject]:
    """Yields `found`; raises InvalidDatasetError if it is empty."""
    first = next(found, None)
    if first is None:
        raise InvalidDatasetError(uri, MEANINGS["404"])
    yield first
    yield from found


def filter_images(found: Iterable[StoredObject], ignored: Counter[str]) -> Iterator[StoredObject]:
    """The images, by our rules for files; `ignored` counts the others by the fields of `Ignored`."""
    for each in found:
        kind = path_kind(each.name)
        if kind == "hidden" and leads_out(each.name):  # which is refused, and not left out
            kind = "own" if is_artifact(each.name) else file_kind(each.name)
        if kind == "image":
            yield each
        else:
            ignored[kind] += 1
