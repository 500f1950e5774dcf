"""Decides what a caller may ask for. The operator may name any path; of others only bytes are taken.

The operator calls from our command line, a script, a notebook or a task of Spark or Ray. In a server, known or unknown,
anybody may. MLFLOW_RESNET_SERVING says which it is, should that be found out wrongly, and MLFLOW_RESNET_ALLOWED_ROOT
opens one folder to everybody. Neither is part of the model's configuration: who logs a model must not decide what its
server may read.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from mlflow_resnet.errors import InvalidImageError, InvalidOptionsError, printable
from mlflow_resnet.images.decoding.decode import read_bytes
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.mlflow_seams import SERVING_VARIABLE
from mlflow_resnet.scoring.over_http.servers import explain_server

ALLOWED_ROOT = "MLFLOW_RESNET_ALLOWED_ROOT"
SERVING = "MLFLOW_RESNET_SERVING"
SERVING_SWITCHES = (SERVING_VARIABLE, SERVING)
REFUSED = "not an image: send the bytes of an image file, base64-encoded; paths and URLs are not opened here"
TO_OPERATOR = f"{REFUSED}; for files of your own, set {ALLOWED_ROOT} to their folder, or use `mlflow-resnet score`"

_logger = logging.getLogger(__name__)


def is_serving() -> bool:
    """Returns whether somebody else than the operator may be asking, which counts as so where it cannot be known."""
    return is_announced() or bool(suspect_server())


def is_announced() -> bool:
    """Returns whether a switch says that this process is a server."""
    return any(map(is_on, SERVING_SWITCHES))


def is_on(switch: str) -> bool:
    return os.environ.get(switch, "").lower() == "true"


def suspect_server() -> str:
    """Returns why this process counts as a server although no switch says so; "" if it does not."""
    is_operators = is_announced() or is_own_process() or os.environ.get(SERVING, "").lower() == "false"
    return "" if is_operators else explain_server()


@functools.cache
def warn_operator(reason: str) -> None:
    """Tells once who reads the log why paths are refused. A caller learns nothing of it."""
    advice = f"If nobody else calls predict in this process, set {SERVING}=false"
    _logger.warning("paths and URLs are refused, because this process may be a server: %s. %s", reason, advice)


@dataclass(frozen=True)
class Guard:
    """The rules of one request.

    Attributes:
        serving: whether the caller may be somebody else than the operator.
        max_images: images per request over HTTP.
        root: the folder whose files an HTTP caller may name.
        refusal: what is said of any other path.
        suspicion: why `serving` is true although no switch says so; for the log.
    """

    serving: bool = False
    max_images: int = 256
    root: Path | None = None
    refusal: str = REFUSED
    suspicion: str = ""

    def file(self, text: str) -> ImageSource:
        """The image file that an HTTP caller names, links followed, which is opened only when it is read.

        Outside the folder nothing is looked up, so that not even the time it takes tells what exists.

        Raises:
            InvalidImageError: always with the same sentence, whether or not there is one.
        """
        if self.suspicion:
            warn_operator(self.suspicion)
        root = self.root
        if root and (named := Path(os.path.normpath(root / text))).is_relative_to(root):
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # too long, a NUL, a circle of links
                path = named.resolve()
                if path.is_relative_to(root) and path.is_file():
                    return ImageSource(printable(text), functools.partial(read_beneath, root, path.relative_to(root)))
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
    root, suspicion = os.environ.get(ALLOWED_ROOT), suspect_server()
    is_command = not is_request and not root and not suspicion and not is_on(SERVING)
    return Guard(
        serving=is_announced() or bool(suspicion),
        max_images=max_images,
        root=Path(root).resolve() if root else None,
        refusal=TO_OPERATOR if is_command else REFUSED,
        suspicion=suspicion,
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
