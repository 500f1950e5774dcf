"""Admits requests only while they can finish in time, and stops them when their time is over.

Requests that cannot finish in time are refused immediately; queueing them would delay the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

from mlflow_resnet.errors import InvalidOptionsError, ServerBusyError
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.io.parallel import batch_items
from mlflow_resnet.model.prediction import Prediction

TIME_MARGIN = 0.8  # of the time of a request that may be planned: the pace is an estimate
MEMORY = 16  # images, over which the pace is averaged
REQUESTS_AT_ONCE = 512  # each in a thread, most of which wait for the network
ALWAYS = 32  # images that an idle server tries whatever it thinks of its pace, which may have changed


def take_requests_at_once() -> None:
    """Gives the running event loop threads for all requests.

    Its own are a few per core, and a request that waits for one is not seen by anybody.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(REQUESTS_AT_ONCE, "request"))


@dataclass
class Call:
    """A request as seen by the application in front of MLflow's.

    Attributes:
        arrived: when all of it was there, of time.monotonic.
        retry_after: seconds after which a refused request is worth another try.
        is_scored: whether it has come as far as the model.
    """

    arrived: float = field(default_factory=time.monotonic)
    retry_after: int = 1
    is_scored: bool = False


CALL: ContextVar[Call | None] = ContextVar("CALL", default=None)  # MLflow's threads see their request's


@dataclass
class Work:
    """The admitted images of one call.

    Attributes:
        seconds: from the call's arrival until its time is over.
        images: how many there are; `begun` were read, `done` have their answer.
    """

    call: Call
    seconds: float
    images: int
    begun: int = 0
    done: int = 0

    @property
    def seconds_left(self) -> float:
        return self.call.arrived + self.seconds - time.monotonic()

    def limit(self, sources: Iterable[ImageSource]) -> Iterator[ImageSource]:
        """`sources`, reading which raises ServerBusyError when the time is over."""
        return (replace(source, read=partial(self._read, source)) for source in sources)

    def _read(self, source: ImageSource) -> bytes:
        if self.seconds_left < 0:
            raise ServerBusyError(f"not done within {self.seconds} s, so the rest was left; send fewer images at once")
        self.begun += 1
        return source.read()


class Admission:
    """Tracks this process's throughput and the number of admitted images.

    Attributes:
        seconds_per_image: a running mean over the time in which there is work; whoever warms up sets the first value.
    """

    def __init__(self) -> None:
        self.seconds_per_image = 0.0
        self._pending = 0
        self._since = time.monotonic()  # when the last images were done, or the first ones came
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def admit(self, images: int) -> Iterator[Work]:
        """Takes `images` in for as long as the block lasts.

        Raises:
            ServerBusyError: if they cannot be had in the time of a request.
            InvalidOptionsError: if even an idle server could not.
        """
        call = CALL.get() or Call()
        work = Work(call, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get(), images)
        with self._lock:
            self._check(work)
            if not self._pending:
                self._since = time.monotonic()
            self._pending += images
        try:
            yield work
        finally:
            if work.begun > work.done:
                self.learn(work.begun - work.done)  # what an error stopped took time too
            self._count(work, work.images - work.done)

    def _check(self, work: Work) -> None:
        if not self._pending and work.images <= ALWAYS:
            return
        alone = work.images * self.seconds_per_image
        planned = TIME_MARGIN * work.seconds
        if alone > planned:
            most = max(1, int(planned / self.seconds_per_image))
            problem = f"{work.images} images take about {alone:.0f} s here, and a request may take {work.seconds} s"
            raise InvalidOptionsError([f"{problem}; send at most {most} at once"])
        late = alone + self._pending * self.seconds_per_image - (work.seconds_left - work.seconds + planned)
        if late > 0:
            work.call.retry_after = wait = math.ceil(late)
            raise ServerBusyError(f"too busy to answer within {work.seconds} s; try again in {wait} s")

    def count_predictions(self, work: Work, predictions: Iterable[Prediction], batch_size: int) -> Iterator[Prediction]:
        """`predictions` of the work, which makes room for others as it is done."""
        for batch in batch_items(predictions, batch_size):
            self._count(work, len(batch))
            yield from batch

    def _count(self, work: Work, images: int) -> None:
        with self._lock:
            work.done += images
            self._pending -= images

    def learn(self, images: int) -> None:
        """So many images more went through the network. The pace is that of all threads together."""
        with self._lock:
            now = time.monotonic()
            pace = (now - self._since) / images
            self.seconds_per_image += (pace - self.seconds_per_image) * images / (images + MEMORY)
            self._since = now
