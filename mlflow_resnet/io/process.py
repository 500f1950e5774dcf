"""Whether this process is ours, so that what holds for all of it may be set as suits us.

The command line and the workers that it starts are. In a process where somebody calls a function of this package,
allocator, signal handlers, levels of logs and filters of warnings are the caller's, and stay as they are.
"""

from __future__ import annotations

import gc
import threading
import warnings

from mlflow_resnet.io.console import make_logs_presentable

_claimed = threading.Event()


def claim_process() -> None:
    """Declares this process ours, from now on."""
    if not is_own_process():
        _claimed.set()
        make_logs_presentable()
        # Pillow's are about damaged metadata, and name no file.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def is_own_process() -> bool:
    """Returns whether this process is the command line, or a worker that it started."""
    return _claimed.is_set()


def keep_collections_short() -> None:
    """Has the garbage collector leave alone what there is now, such as all modules. Only a server may call this.

    To look through half a million objects holds up every thread for a quarter of a second.
    """
    gc.collect()
    gc.freeze()
