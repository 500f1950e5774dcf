"""Keeps the pieces of a run's record in folders until a thread delivers them, so that the server may be away."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from mlflow_resnet.errors import CheckpointError, NotDeliveredError, OutputError
from mlflow_resnet.io.atomic import new_directory, sync_to_disk, write_file
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import MOST_JSON, parse_fields, read_plain
from mlflow_resnet.tracking import pieces
from mlflow_resnet.tracking.record import Recorder
from mlflow_resnet.tracking.run import as_logged, enter_run, status_after
from mlflow_resnet.tracking.server import require_answer

LAST_LOGGED = "val_loss"  # of what is logged of an epoch
SECONDS_AT_END = 30.0  # for a server that is away
SECONDS_AFTER_ERROR = 3.0
LONGEST_DELIVERY_PAUSE = 30.0  # seconds between two tries
SECONDS_BETWEEN_QUESTIONS = 5.0
PIECE, FILES = "piece.json", "files"
PIECE_FOLDER = re.compile(r"[0-9]{6,12}")  # of the folder of a piece
LEFTOVER = re.compile(r"\.[0-9]{6,12}(\.partial-[0-9a-f]+)?")  # of one that was not finished, or is being removed
P = TypeVar("P", bound=pieces.Piece)


class Outbox(Recorder):
    """Keeps each piece in a folder until it is delivered, in order, by a thread that does not hold up a training.

    Each piece is a numbered folder, with a JSON file and perhaps files, which is on the disk when `put` returns. If
    the disk is full, it goes to the server at once, after those before it.
    """

    def __init__(self, path: Path, ids: Notes) -> None:
        super().__init__(ids)
        self.path = path
        self.trouble = ""  # why the last try failed
        self.trouble_began = 0.0
        self.is_delivering = False
        self.news, self.in_hurry, self.over = threading.Event(), threading.Event(), threading.Event()
        if path.is_symlink():
            raise CheckpointError(path, "is a link, which could lead to any folder. Remove it")
        for leftover in path.glob(".*"):
            if LEFTOVER.fullmatch(leftover.name):  # nothing else in a folder is removed
                shutil.rmtree(leftover, ignore_errors=True)
        self.last = max((int(folder.name) for folder in self.pieces()), default=0)

    def put(self, piece: pieces.Piece, write: Callable[[Path], object] | None = None) -> None:
        self.last += 1
        try:
            with new_directory(self.path / f"{self.last:06d}") as folder:
                (folder / FILES).mkdir()
                if write:
                    write(folder / FILES)
                    for path in (folder / FILES).rglob("*"):
                        sync_to_disk(path)
                write_file(folder / PIECE, json.dumps(piece.to_json()).encode())
                sync_to_disk(folder)
            sync_to_disk(self.path)
            self.news.set()
        except OutputError:  # the disk is full
            self.wait_until_empty(lambda: self.is_delivering and not self.trouble)
            if self.pieces() or not self.is_delivering:
                raise
            super().put(piece, write)

    def pieces(self) -> list[Path]:
        """The folders of those that were not delivered, in order."""
        return [folder for folder in sorted(self.path.glob("[0-9]*")) if PIECE_FOLDER.fullmatch(folder.name)]

    def find(self, kind: type[P]) -> Iterator[tuple[Path, P]]:
        """Yields the pieces of a kind that were not delivered, and their folders."""
        for folder in self.pieces():
            with suppress(FileNotFoundError):  # delivered meanwhile
                piece = read_piece(folder)
                if isinstance(piece, kind):
                    yield folder, piece

    def deliver_all(self) -> None:
        """Delivers all pieces. Raises CheckpointError if one is damaged, or any error; what is left is kept."""
        for folder in self.pieces():
            if self.over.is_set():
                return
            require_answer(mlflow.get_tracking_uri())
            read_piece(folder).send(MlflowClient(), folder / FILES, self.ids)
            done = folder.rename(folder.with_name(f".{folder.name}"))
            shutil.rmtree(done, ignore_errors=True)

    @contextmanager
    def deliver_meanwhile(self, seconds: float, seconds_after_error: float) -> Iterator[None]:
        """Delivers while the block runs, and the rest after it.

        Args:
            seconds: how long a server that is away is waited for after the block.
            seconds_after_error: how long the delivery may take after an error in the block.

        Raises:
            NotDeliveredError: if that was not possible. An error in the block counts more.
        """
        threading.Thread(target=self.deliver_as_they_come, daemon=True).start()
        self.is_delivering = True
        try:
            yield
        except BaseException:
            began = time.monotonic()
            self.wait_until_empty(lambda: time.monotonic() < began + seconds_after_error)
            raise
        else:
            ended = time.monotonic()
            self.wait_until_empty(
                lambda: not self.trouble or time.monotonic() < max(ended, self.trouble_began) + seconds
            )
        finally:
            self.over.set()
            self.news.set()
        if self.pieces():
            raise self.not_delivered(self.trouble)

    def deliver_as_they_come(self) -> None:
        """Delivers pieces until the thread is stopped."""
        pause = 1.0
        while not self.over.is_set():
            self.news.wait()
            self.news.clear()
            try:
                self.deliver_all()
            except Exception as error:  # connections, servers, databases, object stores: no common base class
                self.begin_trouble(one_line(error))
                if self.in_hurry.wait(pause):
                    time.sleep(1.0)
                pause = min(2 * pause, LONGEST_DELIVERY_PAUSE)
                self.news.set()
            else:
                if self.trouble:
                    say("MLflow answers again, and has all that was kept")
                self.trouble, pause = "", 1.0

    def begin_trouble(self, reason: str) -> None:
        if not self.trouble:
            say(
                f"MLflow at {mlflow.get_tracking_uri()} does not take what is logged ({reason}); training goes on, and "
                f"it is kept in {self.path}"
            )
            self.trouble_began = time.monotonic()
        self.trouble = reason

    def wait_until_empty(self, is_worth_while: Callable[[], bool]) -> None:
        """Waits for the thread, which now tries every second."""
        self.in_hurry.set()
        self.news.set()
        asked = time.monotonic()
        while self.pieces() and is_worth_while():
            time.sleep(0.05)
            if not self.trouble and time.monotonic() > asked + SECONDS_BETWEEN_QUESTIONS:
                try:
                    require_answer(mlflow.get_tracking_uri())
                except MlflowException as error:  # the thread may learn it only after minutes
                    self.begin_trouble(one_line(error))
                asked = time.monotonic()

    def model_path(self) -> Path | None:
        """Returns the folder of the trained model until it is delivered."""
        return next((folder / FILES / pieces.MODEL_NAME for folder, _ in self.find(pieces.ModelFilesPiece)), None)

    def not_delivered(self, reason: str) -> NotDeliveredError:
        """Returns the error that pieces are left."""
        model = f" The trained model is in {path}." if (path := self.model_path()) else ""
        return NotDeliveredError(
            self.path.parent,
            f"MLflow at {mlflow.get_tracking_uri()} did not take all that was logged ({reason}), so it is kept here."
            f"{model} To deliver it: mlflow-resnet sync {shlex.quote(str(self.path.parent))}",
        )

    def clear(self) -> None:
        """Removes undelivered pieces."""
        shutil.rmtree(self.path, ignore_errors=True)


def read_piece(folder: Path) -> pieces.Piece:
    """Reads a piece that waits in a folder.

    Raises:
        FileNotFoundError: if it was delivered meanwhile.
        CheckpointError: if it is damaged.
    """
    try:
        piece = pieces.parse_piece(parse_fields(read_plain(folder / PIECE, MOST_JSON)))
        for path in (folder, *folder.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):  # a link could lead to any file
                raise ValueError(f"{path.relative_to(folder.parent)} is a link, device or pipe")
        return piece
    except (OSError, ValueError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        if is_missing and not folder.is_dir():
            raise
        reason = f"no {PIECE}" if is_missing else one_line(error)
        problem = f"is damaged ({reason}). To deliver what comes after it, remove it"
        raise CheckpointError(folder, problem) from None


@contextmanager
def record_through_outbox(outbox: Outbox, name: str, params: Mapping[str, Any], offline: bool) -> Iterator[set[int]]:
    """Records a training in a run through an outbox; `name` is that of a new run. Yields the epochs that its record
    has already.

    The epochs that a run has count only if the notes of this training say that it began this run.

    Raises:
        NotDeliveredError: at the end, if the server has not taken all that was put into the outbox.
    """
    ids = outbox.ids
    if offline:
        begin_offline(outbox, name, params)
        with note_end(ids):
            yield find_pending_epochs(outbox)
        return
    begun_in = ids.get("run_id")
    with enter_run(name, params, ids["record_id"], begun_in) as run:
        run_id = run.info.run_id
        if begun_in not in (None, run_id):
            ids.note(begun=False, model_id=None)  # another run has nothing yet
        ids.note(run_id=run_id)
        known = find_pending_epochs(outbox)
        if run_id == begun_in:
            known |= {metric.step for metric in MlflowClient().get_metric_history(run_id, LAST_LOGGED)}
        with outbox.deliver_meanwhile(SECONDS_AT_END, SECONDS_AFTER_ERROR), note_end(ids):
            yield known


def begin_offline(outbox: Outbox, name: str, params: Mapping[str, Any]) -> None:
    """The run is found or made when the outbox is delivered, unless this training has begun one already."""
    if outbox.ids.get("run_id") or any(outbox.find(pieces.RunPiece)):
        return
    facts = {
        "name": name,
        "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default"),
        "experiment_id": os.environ.get("MLFLOW_EXPERIMENT_ID", ""),
        "time": pieces.now(),
        "tags": resolve_tags(),
    }
    if given := os.environ.get(MLFLOW_RUN_ID.name):
        facts |= {"run_id": given, "record_id": outbox.ids["record_id"], "params": as_logged(params)}
    outbox.put(pieces.GivenRunPiece(**facts) if given else pieces.RunPiece(**facts))


def find_pending_epochs(outbox: Outbox) -> set[int]:
    """The epochs whose metrics wait in the outbox."""
    waiting = outbox.find(pieces.MetricsPiece)
    return {point.step for _, piece in waiting for point in piece.points if LAST_LOGGED in point.values}


@contextmanager
def note_end(ids: Notes) -> Iterator[None]:
    """Notes how and when the training ended, for a server that could not be told."""
    try:
        yield
    except BaseException as error:
        ids.note(status=status_after(error), ended=pieces.now())
        raise
    ids.note(status="FINISHED", ended=pieces.now())
