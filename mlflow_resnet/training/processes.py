"""Distributed training: joining processes and exchanging values.

Everything here also works in a process that trains alone. `torchrun` sets the environment variables.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlflow_resnet.errors import InvalidOptionsError, MlflowResnetError, ProcessEndedError

T = TypeVar("T")

GREETING_SECONDS = 0.05  # between two looks for greetings
MEETING_TIMEOUT = timedelta(minutes=5)  # for torchrun and the other processes, which are there or have ended
TIMEOUT = timedelta(hours=1)  # for one that still copies images or uploads the model; torch's is 10 minutes for GPUs


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """Returns how many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def was_launched() -> bool:
    """Whether torchrun, or `processes` above 1, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_device(device: str, count: int, sync_batch_norm: bool) -> None:
    """Raises InvalidOptionsError unless `count` processes here can have a `device` each, GPUs for `sync_batch_norm`."""
    gpus = torch.cuda.device_count()
    problem = ""
    if device.startswith("cuda:"):
        problem = f"device is {device!r}, a single GPU; give cuda, and each process takes its own"
    elif device == "mps" or (device == "auto" and not gpus and torch.backends.mps.is_available()):
        problem = "processes share no mps device; give device cpu"
    elif device in ("auto", "cuda") and 0 < gpus < count:
        problem = f"processes is {count}, but this machine has {gpus} GPUs; give processes {gpus}, or device cpu"
    if problem and count > 1:
        raise InvalidOptionsError([problem])
    if sync_batch_norm and (device in ("cpu", "mps") or not torch.cuda.is_available()):
        problem = "sync_batch_norm is on, but the processes have no GPUs, which it needs; leave it out"
        raise InvalidOptionsError([problem])


def local_device(device: str) -> str:
    """`auto` and `cuda` as the GPU that belongs to this process; other devices as they are."""
    if device in ("auto", "cuda") and was_launched() and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


@contextlib.contextmanager
def join_processes() -> Iterator[None]:
    """Meets the other processes: NCCL between GPUs, gloo between CPUs.

    They part when they end, since they could not meet a second time. After an error they do not: that could wait for
    each other.

    Raises:
        ProcessEndedError: if another process ends before this block does.
    """
    if not was_launched():
        yield
        return
    try:
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            store, rank, count = next(dist.rendezvous("env://", timeout=MEETING_TIMEOUT))
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                store = open_store_part(store, rank, count)
            store.set_timeout(TIMEOUT)
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessEndedError("another process", "ended") from None
        raise
    atexit.register(leave_group)


def open_store_part(store: dist.Store, rank: int, count: int) -> dist.Store:
    """A part of torchrun's store that only these processes use.

    The store outlives them, and after a restart by `--max-restarts` the new processes would look for each other where
    the dead ones were, and wait for an hour. No number of restarts tells them apart: each machine counts its own. So
    each process greets the first with a word of its own, and goes where the first, if it lives, answers to that word.
    """
    word = secrets.token_hex(8)
    if rank > 0:
        store.set(f"greeting/{rank}", word)
        place = store.get(f"answer/{word}").decode()
        store.set(f"{place}/{rank}", "")
        return dist.PrefixStore(place, store)
    while absent := [other for other in range(1, count) if not store.check([f"{word}/{other}"])]:
        for other in absent:
            if store.check([f"greeting/{other}"]):
                store.set(f"answer/{store.get(f'greeting/{other}').decode()}", word)
        time.sleep(GREETING_SECONDS)
    return dist.PrefixStore(word, store)


def leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def agree_on_errors() -> Iterator[None]:
    """Raises an error of one process in all processes; only rank 0 prints it.

    Processes may exchange nothing in it but what is `gather_values`.
    """
    try:
        yield
    except MlflowResnetError as error:
        if error.is_shared:
            raise
        gather_values(None, error)
    else:
        gather_values(None)


def gather_values(value: T, error: MlflowResnetError | None = None) -> list[T]:
    """Every process's `value`, in the order of their ranks; but if one has an `error`, all raise it."""
    found: list[Any] = [(value, error)] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(found, (value, error))
    for _, some_error in found:
        if some_error:
            some_error.is_shared = world_size() > 1
            raise some_error from None
    return [value for value, _ in found]


def sum_values(values: Tensor) -> Tensor:
    """The sum of every process's `values`, of any one shape."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def find_largest(value: int) -> int:
    """The largest of every process's `value`."""
    if not dist.is_initialized():
        return value
    values = torch.tensor(int(value))
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def broadcast_first(value: T | None) -> T:
    """Returns the first process's `value` in all of them; that of the others may be None."""
    values: list[Any] = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def call_first_alone(function: Callable[[], T]) -> T:
    """`function()`, called by one process of each machine before the others, which then find its work done."""
    is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    if is_first_here:
        value = function()
    gather_values(None)
    return value if is_first_here else function()


def own_share(count: int) -> range:
    """Returns the indices below `count` of this process: every `world_size`-th, from its rank on."""
    return range(rank(), count, world_size())


def interleave_parts(parts: list[list[T]]) -> list[T]:
    """Undoes `own_share`: the items in their order, each once."""
    total = sum(map(len, parts))
    return [parts[i % len(parts)][i // len(parts)] for i in range(total)]


def share_buffers(network: nn.Module) -> None:
    """Gives every process the first one's batch-norm statistics, before they evaluate together."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
