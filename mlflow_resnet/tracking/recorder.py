"""Where the pieces of a run's record go: to the tracking server at once, or by way of a folder."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from mlflow_resnet.errors import CheckpointError, NotDeliveredError, OutputError
from mlflow_resnet.io.atomic import new_directory, synced, write_file
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.tracking.delivery import MODEL_NAME, deliver
from mlflow_resnet.tracking.pieces import FILES, NAME, PIECE, is_leftover, piece_of, read_piece

LONGEST_PAUSE = 30.0  # seconds between two tries


class Recorder:
    """Delivers each piece at once. `ids` are those of the run and what belongs to it."""

    def __init__(self, ids: Notes) -> None:
        self.ids = ids

    def put(self, kind: str, write: Callable[[Path], object] | None = None, **facts: Any) -> None:
        """Records a piece of a `kind` of `delivery.DELIVERIES`; `write` puts its files into an empty folder."""
        with tempfile.TemporaryDirectory() as folder:
            if write:
                write(Path(folder))
            deliver(piece_of(kind, facts), Path(folder), self.ids)


def recorder_of(run: Run) -> Recorder:
    """For what is recorded in a run of this process."""
    return Recorder(Notes(run_id=run.info.run_id))


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

    def put(self, kind: str, write: Callable[[Path], object] | None = None, **facts: Any) -> None:
        try:
            self.keep(kind, write, facts)
        except OutputError:
            self.wait_until_empty(lambda: self.is_delivering and not self.trouble)
            if self.pieces() or not self.is_delivering:
                raise
            super().put(kind, write, **facts)

    def keep(self, kind: str, write: Callable[[Path], object] | None, facts: dict[str, Any]) -> None:
        """Raises OutputError if the disk is full."""
        self.last += 1
        with new_directory(self.path / f"{self.last:06d}") as folder:
            (folder / FILES).mkdir()
            if write:
                write(folder / FILES)
                for path in (folder / FILES).rglob("*"):
                    synced(path)
            write_file(folder / PIECE, json.dumps(piece_of(kind, facts)).encode())
            synced(folder)
        synced(self.path)
        self.news.set()

    def pieces(self) -> list[Path]:
        """The folders of those that were not delivered, in order."""
        return [folder for folder in sorted(self.path.glob("[0-9]*")) if NAME.fullmatch(folder.name)]

    def of_kind(self, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The pieces of a kind that were not delivered."""
        for folder in self.pieces():
            with suppress(FileNotFoundError):  # delivered meanwhile
                piece = read_piece(folder)
                if piece["kind"] == kind:
                    yield folder, piece

    def deliver_all(self) -> None:
        """Delivers what is there.

        Raises:
            CheckpointError: if a piece is damaged.
            Exception: of any kind; what was not delivered is kept.
        """
        for folder in self.pieces():
            if self.over.is_set():
                return
            deliver(read_piece(folder), folder / FILES, self.ids)
            done = folder.rename(folder.with_name(f".{folder.name}"))
            shutil.rmtree(done, ignore_errors=True)

    @contextmanager
    def delivering(self, seconds: float, seconds_after_error: float) -> Iterator[None]:
        """Delivers while the block runs, and what is left after it.

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
        """The life of the thread."""
        pause = 1.0
        while not self.over.is_set():
            self.news.wait()
            self.news.clear()
            try:
                self.deliver_all()
            except Exception as error:  # connections, servers, databases, object stores: no common base class
                self.begin_trouble(one_line(error))
                self.pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
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
        while self.pieces() and is_worth_while():
            time.sleep(0.05)

    def model_path(self) -> Path | None:
        """Where the trained model is until it is delivered."""
        return next((folder / FILES / MODEL_NAME for folder, _ in self.of_kind("model_files")), None)

    def not_delivered(self, reason: str) -> NotDeliveredError:
        """What is to be said of what is left."""
        model = f" The trained model is in {path}." if (path := self.model_path()) else ""
        return NotDeliveredError(
            self.path.parent,
            f"MLflow at {mlflow.get_tracking_uri()} did not take all that was logged ({reason}), so it is kept here."
            f"{model} To deliver it: mlflow-resnet sync {shlex.quote(str(self.path.parent))}",
        )

    def clear(self) -> None:
        """Removes what was not delivered."""
        shutil.rmtree(self.path, ignore_errors=True)
