"""Several processes that train one network: who is first, and what they tell each other.

Everything here also works in a process that trains alone. `torchrun` sets the environment variables.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """Which process this is; 0 is the one that speaks and logs."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    return rank() == 0


def was_launched() -> bool:
    """Whether torchrun, or `processes` above 1, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device(device: str) -> str:
    """`auto` and `cuda` as the GPU that belongs to this process; other devices as they are."""
    if device in ("auto", "cuda") and was_launched() and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Meets the other processes, and parts from them at the end: NCCL between GPUs, gloo between CPUs."""
    if not was_launched() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def summed(values: Tensor) -> Tensor:
    """The sum of every process's `values`, of any one shape."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def of_first(value: T) -> T:
    """The first process's `value`."""
    values: list[Any] = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def gathered(value: T) -> list[T]:
    """Every process's `value`, in the order of their ranks."""
    values: list[Any] = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def interleaved(parts: list[list[T]]) -> list[T]:
    """Undoes `items[rank::world_size]`: the items in their order, each once."""
    total = sum(map(len, parts))
    return [parts[i % len(parts)][i // len(parts)] for i in range(total)]


def in_step(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, wrapped so that every process's gradients become their mean."""
    if world_size() == 1:
        return network
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)


def share_buffers(network: nn.Module) -> None:
    """Gives every process the first one's batch-norm statistics, before they evaluate together."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
