"""The command line: parse, one call, print. Options come from `mlflow_resnet.options`; torch is imported on use.

group       the group that all commands belong to
parameters  how an options class becomes a command
models      commands that make models, use them and measure them
images      commands that get images in
registry    commands that decide which version is the champion
"""

# ruff: noqa: E402
from __future__ import annotations

import os

# A thread of torch that waits must sleep and not spin: on a busy machine spinning made training several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded

import io
import signal
import sys
from typing import NoReturn

import click
from mlflow.exceptions import MlflowException

from mlflow_resnet.cli import images, models, registry  # noqa: F401 - each adds its commands to the group
from mlflow_resnet.cli.group import cli
from mlflow_resnet.console import is_first, make_logs_presentable
from mlflow_resnet.errors import SIGINT_EXIT_CODE, SIGTERM_EXIT_CODE, MlflowResnetError, presentable
from mlflow_resnet.images.reasons import os_reason
from mlflow_resnet.text.characters import in_lines

SIGPIPE_EXIT_CODE = 141


def main() -> NoReturn:
    """Runs the command line, and exits.

    0: done, 2: bad input, 3: promotion refused, 4: not delivered, 5: diverged, 130, 141 and 143: signals.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))
    make_logs_presentable()
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show(told := io.StringIO())
        print(in_lines(told.getvalue().rstrip().split("\n")), file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", SIGINT_EXIT_CODE)
    except MlflowResnetError as error:
        if error.is_shared and not is_first():
            sys.exit(error.exit_code)
        fail(error.message, error.exit_code)
    except MlflowException as error:
        fail(error.message.split("\n")[0], MlflowResnetError.exit_code)
    except BrokenPipeError:  # who read what is printed has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SIGPIPE_EXIT_CODE)
    except OSError as error:  # of the machine, not of this program: a disk, a right, a network
        fail(": ".join(filter(None, [str(error.filename or ""), os_reason(error)])), MlflowResnetError.exit_code)
    sys.exit(0)


def fail(message: str, exit_code: int) -> NoReturn:
    """One line on stderr, and the exit code."""
    print(f"mlflow-resnet: {presentable(message)}", file=sys.stderr, flush=True)
    sys.exit(exit_code)
