"""Output destinations: local paths and S3.

What goes to S3 is made in the cache, exactly as on a disk, and is sent when it is whole.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from mlflow_resnet.errors import MlflowResnetError, NotSentError, PathError
from mlflow_resnet.io.atomic import output_errors, resumable_file
from mlflow_resnet.io.cache_folder import private_cache
from mlflow_resnet.io.console import say
from mlflow_resnet.io.own_folders import INDEX_NAME
from mlflow_resnet.io.owned import lock_directory, make_private
from mlflow_resnet.io.s3.upload import UploadedFile, UploadedFolder
from mlflow_resnet.io.text.places import is_remote

STAGES_FOLDER = "outputs"  # in the cache: a folder for each output in S3 that is being made
RESULT, TOKEN = "result", "token"
INDEXES = (INDEX_NAME, "index.csv")  # what says that all the others are there


@contextmanager
def destinations(*outputs: str, key: str = "") -> Iterator[list[Path]]:
    """Yields where to make a directory for each output: there or, for one in S3, in a folder from which it is sent.

    Those in S3 are sent when the block ends. Nobody sees a part of one as the whole, and either all come or none.

    Args:
        key: the next call with the same outputs and key finds the folder as this one left it, if it was interrupted,
            failed, or could not send. Empty: it finds nothing.

    Raises:
        OutputError: before the block, if there can be no such place in S3, or it is not empty, or nothing can be
            written there.
        NotSentError: after it, if S3 does not take them.
    """
    with ExitStack() as stack:
        stages = {each: stack.enter_context(stage_folder(each, key)) for each in outputs if is_remote(each)}
        yield [stages[each].folder if each in stages else Path(each) for each in outputs]
        for stage in stages.values():
            stage.send()
        for stage in stages.values():
            stage.finish()


@contextmanager
def destination(output: str, key: str = "") -> Iterator[Path]:
    """Yields where to make a directory for one output; see `destinations`."""
    with destinations(output, key=key) as (folder,):
        yield folder


@contextmanager
def resumable_destination(output: str) -> Iterator[Path]:
    """Yields a file as `resumable_file` does; for S3 it is made in the cache and sent at the end. Until then, all
    is kept.

    Raises:
        OutputError: before the block, if it cannot be written.
        NotSentError: after it, if S3 does not take it.
    """
    if not is_remote(output):
        with resumable_file(output) as path:
            yield path
        return
    file = UploadedFile(output)
    with enter_stage(output) as stage:
        try:
            file.check()
            with resumable_file(stage / RESULT) as path:
                yield path
                with explain_send_errors(output, "What was made up to here is kept, and the same command goes on"):
                    file.send(path)
        except BaseException:
            with suppress(OSError):
                stage.rmdir()  # if there is nothing to go on with
            raise
        shutil.rmtree(stage)


class StagedFolder:
    """A folder on this machine, and the prefix that it is sent to."""

    def __init__(self, upload: UploadedFolder, stage: Path, is_kept: bool) -> None:
        self.upload, self.folder = upload, stage / RESULT
        self.remedy = "the same command sends it" if is_kept else "copy it from there"

    def send(self) -> None:
        with self.explain_errors():
            say(f"sending to {self.upload.uri}")
            self.upload.send(self.folder, INDEXES)

    def finish(self) -> None:
        with self.explain_errors():
            self.upload.finish()

    def explain_errors(self) -> AbstractContextManager[None]:
        return explain_send_errors(self.upload.uri, f"The result is whole in {self.folder}; {self.remedy}")


@contextmanager
def stage_folder(output: str, key: str) -> Iterator[StagedFolder]:
    """Yields a local folder for one output in S3; see `destinations`. Removes what was sent if the block fails."""
    upload = UploadedFolder(output)
    with enter_stage(output, key) as stage:
        if not key:
            empty_stage(stage)
        try:
            upload.begin(token_in(stage))
            yield StagedFolder(upload, stage, is_kept=bool(key))
        except BaseException:
            with suppress(MlflowResnetError):  # else the token is needed
                upload.withdraw()
                if [each.name for each in stage.iterdir()] == [TOKEN]:
                    shutil.rmtree(stage)
            raise
        shutil.rmtree(stage)


@contextmanager
def enter_stage(output: str, key: str = "") -> Iterator[Path]:
    """A private folder in the cache for this output, in which no other process is.

    Raises:
        OutputError: if the cache cannot be written, or another process makes the same output.
    """
    digest = hashlib.sha256(f"{output.rstrip('/')}\0{key}".encode(errors="backslashreplace")).hexdigest()
    stage = private_cache() / STAGES_FOLDER / digest[:16]
    with output_errors(stage):
        make_private(stage)
    with lock_directory(stage, output):
        yield stage


def empty_stage(stage: Path) -> None:
    """Empties a stage, but keeps the token that identifies its objects in S3."""
    for each in stage.iterdir():
        if each.name != TOKEN:
            shutil.rmtree(each, ignore_errors=True)


def token_in(stage: Path) -> str:
    """Returns the token that calls with this stage share."""
    path = stage / TOKEN
    with output_errors(path):
        if not path.exists():
            path.write_text(secrets.token_hex(16))
        return path.read_text()


@contextmanager
def explain_send_errors(output: str, advice: str) -> Iterator[None]:
    """Adds `advice` to errors of S3 that are raised after the work is done."""
    try:
        yield
    except PathError as error:
        raise NotSentError(output, f"{error.problem.removesuffix('.')}. {advice}") from None
