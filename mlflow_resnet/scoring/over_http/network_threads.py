"""Threads that run networks on a CPU, for all models of a server.

One takes a few images with all cores, and one for each core takes a share of many. Threads that wait for requests would
do it more slowly: after each layer a network waits for Python's lock, and with it every core that computes for it, but
not those that have images of their own. And oneDNN keeps memory for each thread that ever ran a network.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mlflow_resnet.model.prepared import Forward
from mlflow_resnet.model.torch_seams import compute_with_one_core

IMAGES_PER_SHARE = 2  # at least


class NetworkThreads:
    """Threads for as many cores as torch uses now."""

    def __init__(self) -> None:
        self.cores = torch.get_num_threads()
        self._whole = ThreadPoolExecutor(1, "network")
        self._shares = ThreadPoolExecutor(self.cores, "network share", compute_with_one_core)
        started = threading.Barrier(self.cores)
        list(self._shares.map(lambda _: started.wait(), range(self.cores)))
        torch.set_num_threads(self.cores)  # for all other threads

    def run(self, forward: Forward, images: Tensor) -> np.ndarray:
        """Returns `forward(images)`."""
        if len(images) < IMAGES_PER_SHARE * self.cores:
            return self._whole.submit(forward, images).result()
        return np.concatenate(list(self._shares.map(forward, images.chunk(self.cores))))


_build_once = cache(NetworkThreads)
_building = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_build_once.cache_clear)  # a fork has none of its parent's threads


def spread(forward: Forward) -> Forward:
    """`forward`, run by the threads of this process, so that it matters no more which thread calls it."""

    def run(images: Tensor) -> np.ndarray:
        with _building:
            threads = _build_once()
        return threads.run(forward, images)

    return run
