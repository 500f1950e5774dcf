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
import sys
from typing import NoReturn

import click
from mlflow.exceptions import MlflowException

from mlflow_resnet.cli import images, models, registry  # noqa: F401 - each adds its commands to the group
from mlflow_resnet.cli.group import cli
from mlflow_resnet.cli.process import prepare_process
from mlflow_resnet.errors import SIGINT_EXIT_CODE, MlflowResnetError, encodable, presentable
from mlflow_resnet.io.console import is_first
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.io.text.characters import in_lines

SIGPIPE_EXIT_CODE = 141
UTF8_MODE = "PYTHONUTF8"  # variable: Python's UTF-8 mode
MAX_SHOWN = 200  # characters of a text in an error


def main() -> NoReturn:
    """Runs the command line, and exits.

    0: done, 2: bad input, 3: promotion refused, 4: not delivered, 5: diverged, 130, 141 and 143: signals.
    """
    use_utf8()
    prepare_process()
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
    except UnicodeEncodeError as error:  # a path that a library cannot take
        fail(
            f"{encodable(error.object)[:MAX_SHOWN]} is not UTF-8; rename the file or folder",
            MlflowResnetError.exit_code,
        )
    except OSError as error:  # of the machine, not of this program: a disk, a right, a network
        fail(": ".join(filter(None, [str(error.filename or ""), os_reason(error)])), MlflowResnetError.exit_code)
    sys.exit(0)


def use_utf8() -> None:
    """Names of files are UTF-8 whatever the locale says: where Python thinks otherwise, the command begins again.

    What a terminal cannot show is escaped.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8_MODE) != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {UTF8_MODE: "1"})
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def fail(message: str, exit_code: int) -> NoReturn:
    """One line on stderr, and the exit code."""
    print(f"mlflow-resnet: {presentable(message)}", file=sys.stderr, flush=True)
    sys.exit(exit_code)
