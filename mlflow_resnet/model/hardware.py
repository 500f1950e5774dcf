"""Memory that is kept, and errors that mean there is too little of it."""

from __future__ import annotations

import ctypes
import sys

import torch

from mlflow_resnet.io.process import is_own_process
from mlflow_resnet.model.torch_seams import OUT_OF_MEMORY_ON_CPU

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # of glibc's mallopt
LARGE_BLOCK = 14 * 2**20  # bytes; Pillow's have nearly 16 MiB, and a network's layer of 4 pictures has 12


def keep_freed_memory() -> None:
    """Has glibc keep what is freed instead of giving it back to the system at every batch, if this process is ours.

    The system has to clear each page that it hands out again: without this, training on a CPU and scoring in bf16 are
    about 10 % slower. Not where addresses are limited (ulimit -v): oneDNN asks the system itself for room for its code,
    and ends in an error or a crash when what is kept has taken all of it.
    """
    if sys.platform != "linux" or not is_own_process():
        return
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        call_glibc("mallopt", M_MMAP_MAX, 0)
        call_glibc("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)


def keep_little_memory() -> None:
    """Has large blocks be given back to the system when they are freed, if this process is ours.

    Where many threads take and free them, as in a server, each would otherwise keep its own; so does Arrow's allocator.
    """
    if is_own_process():
        import pyarrow

        pyarrow.set_memory_pool(pyarrow.system_memory_pool())
        call_glibc("mallopt", M_ARENA_MAX, 4)
        call_glibc("mallopt", M_MMAP_THRESHOLD, LARGE_BLOCK)
        call_glibc("mallopt", M_TRIM_THRESHOLD, 4 * LARGE_BLOCK)


def give_back_memory(device: torch.device) -> None:
    """Returns freed memory to the system or the GPU, to be allocated in other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    call_glibc("malloc_trim", 0)


def call_glibc(function: str, *arguments: int) -> None:
    """Calls a function of glibc where there is one."""
    if sys.platform == "linux" and (found := getattr(ctypes.CDLL(None), function, None)):  # musl has none
        found(*arguments)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether torch or oneDNN could not allocate memory, on a GPU or a CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_ON_CPU)
