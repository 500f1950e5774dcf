"""Output destinations: local paths and S3.

What goes to S3 is made in the cache, exactly as on a disk, and is sent when it is whole.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mlflow_resnet.errors import MlflowResnetError, NotSentError, PathError
from mlflow_resnet.io.atomic import output_errors, resumable_file
from mlflow_resnet.io.console import say
from mlflow_resnet.io.own_folders import INDEX_NAME, private_cache
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
        yield [stages[each][1] if each in stages else Path(each) for each in outputs]
        remedy = "the same command sends it" if key else "copy it from there"
        for upload, folder in stages.values():
            with explain_send_errors(upload.uri, f"The result is whole in {folder}; {remedy}"):
                say(f"sending to {upload.uri}")
                upload.send(folder, INDEXES)
        for upload, folder in stages.values():
            with explain_send_errors(upload.uri, f"The result is whole in {folder}; {remedy}"):
                upload.finish()


@contextmanager
def destination(output: str, key: str = "") -> Iterator[Path]:
    """Yields where to make a directory for one output; see `destinations`."""
    with destinations(output, key=key) as (folder,):
        yield folder


@contextmanager
def resumable_destination(output: str) -> Iterator[Path]:
    """Yields a file as `resumable_file` does; for S3 it is made in the cache, where all is kept, and sent at the end.

    Raises OutputError before the block if it cannot be written; NotSentError after it if S3 does not take it.
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


@contextmanager
def stage_folder(output: str, key: str) -> Iterator[tuple[UploadedFolder, Path]]:
    """Yields one output in S3, and a local folder for it; see `destinations`. Removes what was sent if the block fails.

    The stage has the token that identifies our objects in S3, which outlives what else is in it.
    """
    upload = UploadedFolder(output)
    with enter_stage(output, key) as stage:
        token = stage / TOKEN
        for each in () if key else stage.iterdir():
            if each != token:
                shutil.rmtree(each, ignore_errors=True)
        try:
            with output_errors(token):
                if not token.exists():
                    token.write_text(secrets.token_hex(16))
                content = token.read_text()
            upload.begin(content)
            yield upload, stage / RESULT
        except BaseException:
            with suppress(MlflowResnetError):  # else the token is needed
                upload.withdraw()
                if list(stage.iterdir()) == [token]:
                    shutil.rmtree(stage)
            raise
        shutil.rmtree(stage)


@contextmanager
def enter_stage(output: str, key: str = "") -> Iterator[Path]:
    """A private folder in the cache for this output. Raises OutputError if there can be none, or a process is in it."""
    digest = hashlib.sha256(f"{output.rstrip('/')}\0{key}".encode(errors="backslashreplace")).hexdigest()
    stage = private_cache() / STAGES_FOLDER / digest[:16]
    with output_errors(stage):
        make_private(stage)
    with lock_directory(stage, output):
        yield stage


@contextmanager
def explain_send_errors(output: str, advice: str) -> Iterator[None]:
    """Adds `advice` to errors of S3 that are raised after the work is done."""
    try:
        yield
    except PathError as error:
        raise NotSentError(output, f"{error.problem.removesuffix('.')}. {advice}") from None
