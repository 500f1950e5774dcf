"""The images that a call scores: of a directory, an S3 prefix or a list, or a machine's share."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.images.sources import ImageSource, check_directories, directory_sources, places
from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.model.storage import hash_file
from mlflow_resnet.scoring.to_file.lists import ImageList, is_list


@dataclass(frozen=True)
class Selection:
    """The images of `uri` that belong to part `number` of `parts`, from 1.

    Of a list, that is every `parts`-th. Of a directory it is decided by a checksum of each image's place in it, so that
    machines agree on every image, also if others come or go while they work, and one that goes on needs no count.
    """

    uri: str
    number: int = 1
    parts: int = 1
    follow_links: bool = False

    def check(self) -> None:
        """Raises InvalidDatasetError if there can be no such place, or it is a list that cannot be used."""
        if not is_list(self.uri):
            check_directories(self.uri)
        elif next(ImageList(self.uri).entries(), None) is None:
            raise InvalidDatasetError(self.uri, "a list without images")

    def sources(self, ignored: Counter[str], after: str = "") -> Iterator[ImageSource]:
        """The images that come after the place `after`, lazily and in order. `ignored` counts what else is there.

        Raises:
            InvalidDatasetError: if they cannot be listed, or if there is nothing.
        """
        if is_list(self.uri):
            done = int(after or 0)
            return ImageList(self.uri).sources(lambda place: place > done and self.has_line(place))
        return directory_sources(self.uri, ignored, after, self.has_place, self.follow_links)

    def items(self) -> Iterator[object]:
        """Yields one item per image without opening any; takes as long as a listing."""
        if is_list(self.uri):
            yield from (line for line, _ in enumerate(ImageList(self.uri).entries(), 1) if self.has_line(line))
        else:
            yield from filter(self.has_place, places(self.uri, Counter(), self.follow_links))

    def has_line(self, line: int) -> bool:
        return line % self.parts == self.number % self.parts

    def has_place(self, place: str) -> bool:
        digest = hashlib.blake2b(os.fsencode(place), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.parts == self.number - 1

    def identity(self) -> dict[str, str]:
        """Returns what two calls must share to score the same images, as far as known at no cost."""
        return {
            "image_dir": self.uri,
            "folder of images": "" if is_remote(self.uri) else os.path.realpath(self.uri),
            "list of images": hash_file(ImageList(self.uri).path) if is_list(self.uri) else "",
            "links that are followed": "all" if self.follow_links else "inside",
            "shard": f"{self.number}/{self.parts}",
        }
