"""torchrun, which leaves it to the process that started it to tell what went wrong."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

FAILURES = "failures.json"


def run_torchrun() -> None:
    """Runs torchrun with the arguments after the first, which is the folder for the failures of workers."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.disable(logging.CRITICAL)
    try:
        torchrun(sys.argv[2:])
    except ChildFailedError as error:
        failures = [
            {"rank": rank, "pid": failure.pid, "exit_code": failure.exitcode, "timestamp": failure.timestamp}
            for rank, failure in error.failures.items()
        ]
        (Path(sys.argv[1]) / FAILURES).write_text(json.dumps(failures))
        sys.exit(1)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    run_torchrun()
