"""Copies checkpoints to a store, and back: to artifacts of the run, or to a prefix in S3."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from mlflow_resnet.errors import CheckpointError, MlflowResnetError
from mlflow_resnet.io.atomic import disk_errors
from mlflow_resnet.io.console import say
from mlflow_resnet.io.file_names import name_problem
from mlflow_resnet.io.notes import Notes, read_notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.s3.access import connect_s3, patiently
from mlflow_resnet.io.s3.listing import StoredObject, list_objects, parse_location
from mlflow_resnet.io.s3.transfer import receive
from mlflow_resnet.tracking.run import open_artifacts
from mlflow_resnet.training.checkpoints import CHECKPOINT_NUMBER, KEPT, SUMS_FILE, CheckpointFolder, read_checkpoint

NOTES = "training.json"
MIRROR_SECONDS_AT_END = 10.0  # from the last checkpoint on, that its copy may take when the training ends
ARTIFACT_FOLDER = "checkpoints"
TRAINING_TAG = "mlflow_resnet.training"  # of a run: which training it is, for a machine that does not know its id


class Mirror:
    """Copies the newest checkpoint of a training to a store, in a thread that does not hold up the training.

    A copy is whole when its SHA256SUMS is there, which comes last. With it come the notes, by which another machine
    finds the run.
    """

    def __init__(self, store: S3Store | ArtifactStore, checkpoints: CheckpointFolder, notes: Notes) -> None:
        self.store, self.checkpoints, self.notes = store, checkpoints, notes
        self.waiting: int | None = None
        self.offered = 0.0  # when a checkpoint last became the newest
        self.changed = threading.Condition()
        self.is_over = self.is_failing = False

    @contextmanager
    def run(self, delivers: bool) -> Iterator[None]:
        """Copies while the block runs, and what is left then, if that does not take too long.

        If it `delivers` the model, the copies are removed after it, and the notes there say that all is done.
        """
        thread = threading.Thread(target=self.copy_as_they_come, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self.changed:
                seconds = max(0.0, self.offered + MIRROR_SECONDS_AT_END - time.monotonic())
                self.changed.wait_for(lambda: not self.checkpoints.held, seconds)
                self.is_over = True
                self.changed.notify_all()
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

    def copy_as_they_come(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.is_over or self.waiting is not None)
                number, self.waiting = self.waiting, None
                if self.is_over or number is None:
                    return
            with self.tell_failures():
                folder = self.checkpoints.locate(number)
                files = sorted(folder.iterdir(), key=lambda path: (path.name == SUMS_FILE, path.name))
                self.send_notes()
                for path in files:
                    self.store.send(path, f"{folder.name}/{path.name}")
                self.remove_but(KEPT)
            with self.changed:
                self.checkpoints.held.discard(number)
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

    def send_notes(self) -> None:
        """Sends the notes that another machine needs. What the server was not told yet, it will have to tell again."""
        facts = dict(self.notes.facts)
        if facts.get("model_id") is None:
            facts.pop("begun", None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / NOTES
            path.write_text(json.dumps(facts))
            self.store.send(path, NOTES)

    def remove_but(self, count: int) -> None:
        """Removes all copies but the newest `count`, and incomplete ones."""
        names = self.store.names()
        kept = whole_copies(names)[-count:] if count else []
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
        facts: dict[str, Any] = {}
        with self.require_answers(), tempfile.TemporaryDirectory() as folder:
            names, path = self.store.names(), Path(folder) / NOTES
            if NOTES in names:
                self.store.fetch(NOTES, path)
                try:
                    facts = read_notes(path)
                except ValueError as error:
                    raise CheckpointError(self.store.uri, f"its {NOTES} is damaged ({one_line(error)})") from None
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

    def fetch_copy(self, number: int, names: list[str]) -> bool:
        """Makes a copy a local checkpoint; returns False, and says so, if it is damaged."""
        prefix = f"{self.checkpoints.locate(number).name}/"
        own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        own = [name for name in own if "/" not in name and not name_problem(name)]
        try:
            with self.checkpoints.place(number) as folder:
                with self.require_answers(), disk_errors(folder):
                    for name in own:
                        self.store.fetch(prefix + name, folder / name)
                read_checkpoint(folder)
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
        except Exception as error:  # see tell_failures
            raise CheckpointError(self.store.uri, f"cannot be reached ({one_line(error)})") from None


def whole_copies(names: list[str]) -> list[int]:
    """The numbers of the checkpoints whose last file is there, in order."""
    folders = [name.removesuffix(f"/{SUMS_FILE}") for name in names if name.endswith(f"/{SUMS_FILE}")]
    return sorted(int(folder) for folder in folders if CHECKPOINT_NUMBER.fullmatch(folder))


class S3Store:
    """Files of one training, by names as `a/b`. Any method raises any exception if the store does not answer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.place, self.client = parse_location(uri), connect_s3(uri)
        self.found: dict[str, StoredObject] = {}

    def names(self) -> list[str]:
        """Returns the names of all files, in any order."""
        self.found = {each.name: each for each in list_objects(self.client, self.place, self.place.prefix)}
        return list(self.found)

    def send(self, path: Path, name: str) -> None:
        """Copies a file there, also over one of that name."""

        def request() -> None:
            with open(path, "rb") as file:
                self.client.put_object(Bucket=self.place.bucket, Key=self.place.prefix + name, Body=file)

        patiently(self.uri, request)

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file from there, one of the last `names`."""
        with open(path, "wb") as file:
            receive(self.client, self.place, self.found[name], file)

    def remove(self, folder: str) -> None:
        """Removes the files `folder/…`, if the store can remove anything."""
        for each in list_objects(self.client, self.place, f"{self.place.prefix}{folder}/"):
            patiently(self.uri, partial(self.client.delete_object, Bucket=self.place.bucket, Key=each.key))


class ArtifactStore:
    """The same among the artifacts of the run in the notes, or else of the newest run tagged with `training`."""

    uri = "the run's artifacts"

    def __init__(self, training: str, notes: Notes) -> None:
        self.training, self.notes, self.is_tagged = training, notes, False

    def run_id(self) -> str:
        """Empty if there is none."""
        if known := self.notes.get("run_id"):
            return known
        client = MlflowClient()
        experiments = [each.experiment_id for each in client.search_experiments()]
        wanted = f"tags.`{TRAINING_TAG}` = '{self.training}'"
        runs = client.search_runs(experiments, wanted, max_results=1, order_by=["attributes.start_time DESC"])
        return runs[0].info.run_id if runs else ""

    def names(self) -> list[str]:
        run_id, pending, found = self.run_id(), [ARTIFACT_FOLDER], []
        if not run_id:
            return []
        artifacts = open_artifacts(MlflowClient().get_run(run_id))
        while pending:
            entries = artifacts.list_artifacts(pending.pop())
            pending += [each.path for each in entries if each.is_dir]
            found += [each.path.removeprefix(f"{ARTIFACT_FOLDER}/") for each in entries if not each.is_dir]
        return found

    def send(self, path: Path, name: str) -> None:
        run_id, client = self.run_id(), MlflowClient()
        if not self.is_tagged:
            client.set_tag(run_id, TRAINING_TAG, self.training)
            self.is_tagged = True
        client.log_artifact(run_id, str(path), str((ARTIFACT_FOLDER / Path(name)).parent))

    def fetch(self, name: str, path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            artifacts = open_artifacts(MlflowClient().get_run(self.run_id()))
            Path(artifacts.download_artifacts(f"{ARTIFACT_FOLDER}/{name}", folder)).replace(path)

    def remove(self, folder: str) -> None:
        with contextlib.suppress(NotImplementedError):
            open_artifacts(MlflowClient().get_run(self.run_id())).delete_artifacts(f"{ARTIFACT_FOLDER}/{folder}")
