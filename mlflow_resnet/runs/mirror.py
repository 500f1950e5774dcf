"""Copies checkpoints to a store, and back."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import CheckpointError, MlflowResnetError
from mlflow_resnet.io.atomic import disk_errors
from mlflow_resnet.io.console import say
from mlflow_resnet.io.file_names import name_problem
from mlflow_resnet.io.notes import Notes, read_notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.runs.mirror_stores import Store
from mlflow_resnet.training.checkpoints import CHECKPOINT_NUMBER, KEPT, SUMS_FILE, CheckpointFolder

NOTES = "training.json"
MIRROR_SECONDS_AT_END = 10.0  # from the last checkpoint on, that its copy may take when the training ends


class Mirror:
    """Copies the newest checkpoint of a training to a store, in a thread that does not hold up the training.

    A copy is whole when its SHA256SUMS is there, which comes last. With it come the notes, by which another machine
    finds the run.
    """

    def __init__(self, store: Store, checkpoints: CheckpointFolder, notes: Notes) -> None:
        self.store, self.checkpoints, self.notes = store, checkpoints, notes
        self.waiting: int | None = None
        self.offered = 0.0  # when a checkpoint last became the newest
        self.changed = threading.Condition()
        self.is_busy = self.is_over = self.is_failing = False

    @contextmanager
    def run(self, delivers: bool) -> Iterator[None]:
        """Copies while the block runs.

        If it `delivers` the model, the copies are removed after it, and the notes there say that all is done.
        """
        thread = threading.Thread(target=self.copy_as_they_come, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop()
        if delivers:
            with self.tell_failures():
                self.send_notes()
                self.remove_but(0)

    def offer(self, number: int) -> None:
        """The checkpoint that is now the newest. It waits for the copy that is under way, and only the newest waits."""
        with self.changed:
            if self.waiting is not None:
                self.checkpoints.held.discard(self.waiting)
            self.checkpoints.held.add(number)
            self.waiting, self.offered = number, time.monotonic()
            self.changed.notify_all()

    def stop(self) -> None:
        """Ends the thread after the remaining copies, if these do not take too long."""
        with self.changed:
            seconds = max(0.0, self.offered + MIRROR_SECONDS_AT_END - time.monotonic())
            self.changed.wait_for(lambda: self.waiting is None and not self.is_busy, seconds)
            self.is_over = True
            self.changed.notify_all()

    def copy_as_they_come(self) -> None:
        """Copies checkpoints until the thread is stopped."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.is_over or self.waiting is not None)
                number, self.waiting = self.waiting, None
                if self.is_over or number is None:
                    return
                self.is_busy = True
            with self.tell_failures():
                self.copy(number)
            with self.changed:
                self.checkpoints.held.discard(number)
                self.is_busy = False
                self.changed.notify_all()

    @contextmanager
    def tell_failures(self) -> Iterator[None]:
        """A failure costs no more than a line, once, until a copy succeeds again."""
        try:
            yield
        except Exception as error:  # connections, servers, object stores, disks: no common base class
            if not self.is_failing and self.checkpoints.numbers():  # they are removed when the training is complete
                say(f"no copy of a checkpoint reached {self.store.uri} ({one_line(error)}); the next one is tried")
            self.is_failing = True
        else:
            self.is_failing = False

    def copy(self, number: int) -> None:
        folder = self.checkpoints.locate(number)
        files = sorted(folder.iterdir(), key=lambda path: (path.name == SUMS_FILE, path.name))
        self.send_notes()
        for path in files:
            self.store.send(path, f"{folder.name}/{path.name}")
        self.remove_but(KEPT)

    def send_notes(self) -> None:
        """Sends the notes that another machine needs. What the server was not told yet, it will have to tell again."""
        facts = dict(self.notes.facts)
        if not facts.get("model_id"):
            facts.pop("begun", None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / NOTES
            path.write_text(json.dumps(facts))
            self.store.send(path, NOTES)

    def remove_but(self, count: int) -> None:
        """Removes all copies but the newest `count`, and incomplete ones."""
        names = self.store.names()
        whole = whole_copies(names)
        kept = whole[len(whole) - count :] if count else []
        for folder in sorted({name.partition("/")[0] for name in names if "/" in name}):
            if CHECKPOINT_NUMBER.fullmatch(folder) and int(folder) not in kept:
                self.store.remove(folder)

    def clear(self) -> None:
        """Forgets the copies of a training that begins anew, and whose notes are empty.

        Raises:
            CheckpointError: if the store does not answer.
        """
        with self.require_answers():
            self.remove_but(0)
            if NOTES in self.store.names():
                self.send_notes()

    def fetch_newer(self) -> None:
        """Fetches the newest whole copy and its notes, if newer than the local checkpoint.

        Raises:
            CheckpointError: if the store does not answer, or has copies but none that is whole.
            OutputError: if they cannot be written.
        """
        with self.require_answers():
            names = self.store.names()
            facts = self.fetch_notes() if NOTES in names else {}
        newest = max(self.checkpoints.numbers(), default=0)
        newer = [number for number in whole_copies(names) if number > newest]
        if "best_epoch" in facts:
            self.notes.note(**facts)
        elif newer and not any(self.fetch_copy(number, names) for number in reversed(newer)):
            if not newest:
                what = f"none of its {len(newer)} copies of checkpoints is whole. To begin anew, give --resume never"
                raise CheckpointError(self.store.uri, what)
        elif newer:
            self.notes.note(**facts)

    def fetch_notes(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / NOTES
            self.store.fetch(NOTES, path)
            try:
                return read_notes(path)
            except ValueError as error:
                raise CheckpointError(self.store.uri, f"its {NOTES} is damaged ({one_line(error)})") from None

    def fetch_copy(self, number: int, names: list[str]) -> bool:
        """Makes a copy a local checkpoint; returns False, and says so, if it is damaged."""
        prefix = f"{self.checkpoints.locate(number).name}/"
        own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        own = [name for name in own if "/" not in name and not name_problem(name)]

        def write(folder: Path) -> None:
            with self.require_answers(), disk_errors(folder):
                for name in own:
                    self.store.fetch(prefix + name, folder / name)

        try:
            self.checkpoints.adopt(number, write)
        except ValueError as error:
            say(f"the copy {prefix}of {self.store.uri} is damaged ({one_line(error)}), so the one before it is taken")
            return False
        say(f"fetched checkpoint {number} from {self.store.uri}")
        return True

    @contextmanager
    def require_answers(self) -> Iterator[None]:
        """Before a training, a store that does not answer is an error."""
        try:
            yield
        except MlflowResnetError:
            raise
        except Exception as error:  # see failures_told
            raise CheckpointError(self.store.uri, f"cannot be reached ({one_line(error)})") from None


def whole_copies(names: list[str]) -> list[int]:
    """The numbers of the checkpoints whose last file is there, in order."""
    folders = [name.removesuffix(f"/{SUMS_FILE}") for name in names if name.endswith(f"/{SUMS_FILE}")]
    return sorted(int(folder) for folder in folders if CHECKPOINT_NUMBER.fullmatch(folder))
