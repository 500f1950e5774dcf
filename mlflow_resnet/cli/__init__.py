"""The command line: parse, one call, print. Options come from `mlflow_resnet.options`; torch and mlflow on use.

build  how an options class becomes a command
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

from mlflow_resnet.cli.build import cli, suggest_name
from mlflow_resnet.io.console import SIGINT_EXIT_CODE, SIGTERM_EXIT_CODE, is_first
from mlflow_resnet.io.process import claim_process
from mlflow_resnet.io.reasons import os_reason
from mlflow_resnet.io.text.characters import encodable, presentable

__all__ = ["cli", "main"]

PROGRAM = "mlflow-resnet"
BAD_INPUT_EXIT_CODE, SIGPIPE_EXIT_CODE = 2, 141
UTF8_MODE = "PYTHONUTF8"  # variable: Python's UTF-8 mode
# How long MLflow asks a server, unless the user has said so. Its own defaults, 7 and 120, would keep a user waiting for
# a quarter of an hour; an artifact store may take a minute to keep a large file. MLflow before 3.8 shows a bar for
# every model that it fetches, also where nobody looks.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def main() -> NoReturn:
    """Run the command line, and exit.

    0: done, 2: bad input, 3: promotion refused, 4: not delivered, 5: diverged, 130, 141 and 143: signals.
    """
    use_utf8()
    prepare_process()
    try:
        sys.exit(cli.main(prog_name=PROGRAM, standalone_mode=False))
    except click.ClickException as error:
        fail(describe_misuse(error), BAD_INPUT_EXIT_CODE)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", SIGINT_EXIT_CODE)
    except BrokenPipeError:  # who read what is printed has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SIGPIPE_EXIT_CODE)
    except UnicodeEncodeError as error:  # a path that a library cannot take
        fail(f"{encodable(error.object):.200} is not UTF-8; rename the file or folder", BAD_INPUT_EXIT_CODE)
    except OSError as error:  # of the machine, not of this program: a disk, a right, a network
        fail(": ".join(filter(None, [str(error.filename or ""), os_reason(error)])), BAD_INPUT_EXIT_CODE)
    except Exception as error:
        fail_as_mlflow(error)


def prepare_process() -> None:
    """Make this process ours, as no library call does: SIGTERM ends it as an exception does, requests are bounded."""
    claim_process()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)


def describe_misuse(error: click.ClickException) -> str:
    """Return one line about arguments that cannot be parsed: what is wrong, and what was meant or where help is."""
    context = getattr(error, "ctx", None)
    verb = context.info_name if context and context.parent else ""
    if isinstance(error, click.NoSuchOption):
        names = [name for each in context.command.get_params(context) for name in each.opts] if context else []
        what = f"{verb} has" if verb else "there is"
        return f"{what} no option {error.option_name}{suggest_name(error.option_name, names)}"
    if isinstance(error, click.MissingParameter) and error.param:
        shown = error.param.opts[0] if isinstance(error.param, click.Option) else (error.param.name or "").upper()
        return f"{verb} needs {shown}; {PROGRAM} {verb} --help tells what it is"
    return ": ".join(filter(None, [verb, error.format_message()]))


def fail_as_mlflow(error: Exception) -> NoReturn:
    """Tell an error of ours or of MLflow in one line; raise any other again."""
    from mlflow.exceptions import MlflowException

    from mlflow_resnet.errors import MlflowResnetError

    if isinstance(error, MlflowResnetError):
        if error.is_shared and not is_first():
            sys.exit(error.exit_code)
        fail(error.message, error.exit_code)
    if isinstance(error, MlflowException):
        fail(error.message.split("\n")[0], BAD_INPUT_EXIT_CODE)
    raise error


def use_utf8() -> None:
    """Take names of files as UTF-8 whatever the locale says: where Python does not, the command begins again.

    What a terminal cannot show is escaped.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8_MODE) != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {UTF8_MODE: "1"})
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on stderr, and exit."""
    print(f"{PROGRAM}: {presentable(message)}", file=sys.stderr, flush=True)
    sys.exit(exit_code)
