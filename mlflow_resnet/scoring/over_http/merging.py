"""Merges images of several threads into batches of one network."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.model.prepared import Forward


@dataclass(frozen=True)
class _Job:
    """Images of one caller and its future rows; None makes it the runner of the next batch."""

    images: Tensor
    turn: Future[np.ndarray | None] = field(default_factory=Future)


class MergedForward:
    """Calls `forward` for several threads, one batch at a time, each with its own images' rows for an answer.

    There is no thread of its own: who finds the network idle runs it, at once, with what others have brought, and then
    passes the turn on to the first of those who came meanwhile. An error reaches those whose images were in the batch.

    Attributes:
        watchers: told how many images just went through. None may refer to what has this forward: a network that is
            replaced has to leave the memory at once, not when Python looks for circles.
        max_batch_size: images of several callers together; one who brings more is not merged with others.
    """

    def __init__(
        self,
        forward: Forward,
        image_size: int,
        max_batch_size: int,
        max_latency_ms: float = 0,
        on_batch: Callable[[int], object] = lambda images: None,
    ) -> None:
        """Args:
        image_size: pixels of each side; images of another size are not merged, because they take other memory.
        max_latency_ms: how long a batch waits for callers that have not brought their images yet.
        on_batch: told how many images just went through.
        """
        self._forward, self._image_size, self.watchers = forward, image_size, [on_batch]
        self.max_batch_size, self._max_latency = max_batch_size, max_latency_ms / 1000
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._callers = 0

    @contextlib.contextmanager
    def caller(self) -> Iterator[None]:
        """Within it a thread is going to bring images, and a batch may wait for them."""
        with self._changed:
            self._callers += 1
        try:
            yield
        finally:
            with self._changed:
                self._callers -= 1
                self._changed.notify()

    def __call__(self, images: Tensor) -> np.ndarray:
        """Returns the rows of `images`, whatever they were merged with."""
        job = _Job(images)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
            is_first, self._running = not self._running, True
        rows = None if is_first else job.turn.result()
        return self._run() if rows is None else rows

    def _run(self) -> np.ndarray:
        """Runs a batch, the first images of which are the caller's own."""
        own, *others = batch = self._next_batch()
        try:
            rows = self._forward(torch.cat([job.images for job in batch]) if others else own.images)
        except BaseException as error:
            for job in others:
                job.turn.set_exception(error)
            raise
        finally:
            with self._changed:
                self._running = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].turn.set_result(None)
        for on_batch in self.watchers:
            on_batch(len(rows))
        own_rows, *others_rows = np.split(rows, np.cumsum([len(job.images) for job in batch])[:-1])
        for job, part in zip(others, others_rows, strict=True):
            job.turn.set_result(part)
        return own_rows

    def _next_batch(self) -> list[_Job]:
        with self._changed:
            if self._max_latency:
                self._changed.wait_for(self._is_complete, self._max_latency)
            batch = [self._waiting.popleft()]
            room = self.max_batch_size - len(batch[0].images) if self._is_usual(batch[0]) else 0
            while self._waiting and self._is_usual(self._waiting[0]) and len(self._waiting[0].images) <= room:
                batch.append(self._waiting.popleft())
                room -= len(batch[-1].images)
            return batch

    def _is_usual(self, job: _Job) -> bool:
        return job.images.shape[-1] == self._image_size

    def _is_complete(self) -> bool:
        """Returns whether a batch need not wait any longer."""
        images = sum(len(job.images) for job in self._waiting)
        return len(self._waiting) >= self._callers or images >= self.max_batch_size
