"""Decides what a caller may ask for. A Python caller may name any path; over HTTP only bytes are taken.

An operator can open one folder to HTTP callers with MLFLOW_RESNET_ALLOWED_ROOT. It is not part of the model's
configuration, because whoever logs a model must not decide what its server may read.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow_resnet.errors import InvalidImageError, InvalidOptionsError, printable
from mlflow_resnet.images.decoding.decode import read_bytes
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.mlflow_seams import SERVING_VARIABLE

ALLOWED_ROOT = "MLFLOW_RESNET_ALLOWED_ROOT"
SERVING = "MLFLOW_RESNET_SERVING"
SERVING_SWITCHES = (SERVING_VARIABLE, SERVING)
REFUSED = "not an image: send the bytes of an image file, base64-encoded; paths and URLs are not opened here"
TO_OPERATOR = f"{REFUSED}; for files of your own, set {ALLOWED_ROOT} to their folder, or use `mlflow-resnet score`"


def is_serving() -> bool:
    """Whether this process answers HTTP requests."""
    return any(os.environ.get(name, "").lower() == "true" for name in SERVING_SWITCHES)


@dataclass(frozen=True)
class Guard:
    """The rules of one request.

    Attributes:
        serving: whether the request came over HTTP.
        max_images: images per request over HTTP.
        root: the folder whose files an HTTP caller may name.
        refusal: what is said of any other path.
    """

    serving: bool = False
    max_images: int = 256
    root: Path | None = None
    refusal: str = REFUSED

    def file(self, text: str) -> ImageSource:
        """The image file that an HTTP caller names, links followed, which is opened only when it is read.

        Outside the folder nothing is looked up, so that not even the time it takes tells what exists.

        Raises:
            InvalidImageError: always with the same sentence, whether or not there is one.
        """
        root = self.root
        if root and (named := Path(os.path.normpath(root / text))).is_relative_to(root):
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # too long, a NUL, a circle of links
                path = named.resolve()
                if path.is_relative_to(root) and path.is_file():
                    return ImageSource(printable(text), partial(read_beneath, root, path.relative_to(root)))
        raise InvalidImageError(self.refusal)

    def check_number(self, images: int) -> None:
        """Raises InvalidOptionsError if an HTTP request holds more images than it may."""
        if self.serving and images > self.max_images:
            problem = f"{images} images in one request, over the limit of {self.max_images}; send several requests"
            raise InvalidOptionsError([problem])


def current_guard(max_images: int, is_request: bool = True) -> Guard:
    """The rules that hold in this process now.

    Args:
        is_request: whether a server is known to ask. `mlflow models predict` imitates one; its user is told more.
    """
    root = os.environ.get(ALLOWED_ROOT)
    is_command = not is_request and not root and os.environ.get(SERVING, "").lower() != "true"
    return Guard(
        is_serving(), max_images, Path(root).resolve() if root else None, TO_OPERATOR if is_command else REFUSED
    )


def read_beneath(root: Path, place: Path) -> bytes:
    """The content of the file at `place`, relative to `root`, if no link leads there any more.

    Each part of the path is opened in the folder before it, so nobody can exchange one for a link in between.

    Raises:
        InvalidImageError: if there is none, always with the same sentence, or if it cannot be an image.
    """

    def open_beneath(path: str, flags: int) -> int:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in place.parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                folder, outer = inner, folder
                os.close(outer)
            return os.open(place.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError:
            raise InvalidImageError(REFUSED) from None
        finally:
            os.close(folder)

    return read_bytes(place, open_beneath)
