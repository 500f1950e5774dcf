"""Where the pieces of a run's record wait: in folders, until a thread delivers them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_resnet.errors import CheckpointError, NotDeliveredError, OutputError
from mlflow_resnet.io.atomic import new_directory, sync_to_disk, write_file
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import MOST_JSON, parse_fields, read_plain
from mlflow_resnet.tracking.pieces import MODEL_NAME, ModelFilesPiece, Piece, parse_piece
from mlflow_resnet.tracking.recorder import Recorder
from mlflow_resnet.tracking.server import require_answer

LONGEST_DELIVERY_PAUSE = 30.0  # seconds between two tries
SECONDS_BETWEEN_QUESTIONS = 5.0
PIECE, FILES = "piece.json", "files"
PIECE_FOLDER = re.compile(r"[0-9]{6,12}")  # of the folder of a piece
LEFTOVER = re.compile(r"\.[0-9]{6,12}(\.partial-[0-9a-f]+)?")  # of one that was not finished, or is being removed
P = TypeVar("P", bound=Piece)


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
        for leftover in filter(is_leftover, path.glob(".*")):
            shutil.rmtree(leftover, ignore_errors=True)
        self.last = int(pieces[-1].name) if (pieces := self.pieces()) else 0

    def put(self, piece: Piece, write: Callable[[Path], object] | None = None) -> None:
        try:
            self.keep(piece, write)
        except OutputError:
            self.wait_until_empty(lambda: self.is_delivering and not self.trouble)
            if self.pieces() or not self.is_delivering:
                raise
            super().put(piece, write)

    def keep(self, piece: Piece, write: Callable[[Path], object] | None) -> None:
        """Raises OutputError if the disk is full."""
        self.last += 1
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
        """Delivers all pieces.

        Raises:
            CheckpointError: if a piece is damaged.
            Exception: of any kind; what was not delivered is kept.
        """
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
        thread = threading.Thread(target=self.deliver_as_they_come, daemon=True)
        thread.start()
        self.is_delivering = True
        try:
            try:
                yield
            except BaseException:
                began = time.monotonic()
                self.wait_until_empty(lambda: time.monotonic() < began + seconds_after_error)
                raise
            began = time.monotonic()
            self.wait_until_empty(
                lambda: not self.trouble or time.monotonic() < max(began, self.trouble_began) + seconds
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
                self.pause(pause)
                pause = min(2 * pause, LONGEST_DELIVERY_PAUSE)
                self.news.set()
            else:
                self.end_trouble()
                pause = 1.0

    def pause(self, seconds: float) -> None:
        """Until the next try; a second if there is a hurry."""
        if self.in_hurry.is_set() or self.in_hurry.wait(seconds):
            time.sleep(1.0)

    def begin_trouble(self, reason: str) -> None:
        if not self.trouble:
            say(
                f"MLflow at {mlflow.get_tracking_uri()} does not take what is logged ({reason}); training goes on, and "
                f"it is kept in {self.path}"
            )
            self.trouble_began = time.monotonic()
        self.trouble = reason

    def end_trouble(self) -> None:
        if self.trouble:
            say("MLflow answers again, and has all that was kept")
        self.trouble = ""

    def wait_until_empty(self, is_worth_while: Callable[[], bool]) -> None:
        """Waits for the thread, which now tries every second."""
        self.in_hurry.set()
        self.news.set()
        asked = time.monotonic()
        while self.pieces() and is_worth_while():
            time.sleep(0.05)
            if not self.trouble and time.monotonic() > asked + SECONDS_BETWEEN_QUESTIONS:
                self.ask_server()
                asked = time.monotonic()

    def ask_server(self) -> None:
        """Begins trouble if the server does not answer, which the thread may learn from MLflow only after minutes."""
        try:
            require_answer(mlflow.get_tracking_uri())
        except MlflowException as error:
            self.begin_trouble(one_line(error))

    def model_path(self) -> Path | None:
        """Returns the folder of the trained model until it is delivered."""
        return next((folder / FILES / MODEL_NAME for folder, _ in self.find(ModelFilesPiece)), None)

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


def is_leftover(path: Path) -> bool:
    """Returns whether a killed process left this; nothing else in a folder is removed."""
    return LEFTOVER.fullmatch(path.name) is not None


def read_piece(folder: Path) -> Piece:
    """Reads a piece that waits in a folder.

    Raises:
        FileNotFoundError: if it was delivered meanwhile.
        CheckpointError: if it is damaged.
    """
    try:
        piece = parse_piece(parse_fields(read_plain(folder / PIECE, MOST_JSON)))
        check_files(folder)
        return piece
    except FileNotFoundError:
        if folder.is_dir():
            raise explain_damaged_piece(folder, f"no {PIECE}") from None
        raise
    except (OSError, ValueError) as error:
        raise explain_damaged_piece(folder, one_line(error)) from None


def check_files(folder: Path) -> None:
    """Raises ValueError if there is anything but plain files and folders: a link could lead to any file."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ValueError(f"{path.relative_to(folder.parent)} is a link, device or pipe")


def explain_damaged_piece(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(folder, f"is damaged ({problem}). To deliver what comes after it, remove it")
