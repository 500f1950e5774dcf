"""Stores of checkpoint copies: artifacts of the run, or a prefix in S3. Both know files by names as `a/b`."""

from __future__ import annotations

import contextlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Protocol

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.s3.access import connect_s3, patiently
from mlflow_resnet.io.s3.listing import Location, StoredObject, list_objects, parse_location
from mlflow_resnet.io.s3.transfer import receive

RUN_ARTIFACTS = "artifacts"
ARTIFACT_FOLDER = "checkpoints"
TRAINING_TAG = "mlflow_resnet.training"  # of a run: which training it is, for a machine that does not know its id


class Store(Protocol):
    """Files of one training. Any method raises an exception of any kind if the store does not answer."""

    uri: str

    def names(self) -> list[str]:
        """Returns the names of all files, in any order."""

    def send(self, path: Path, name: str) -> None:
        """Copies a file there, also over one of that name."""

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file from there, one of the last `names`."""

    def remove(self, folder: str) -> None:
        """Removes the files `folder/…`, if the store can remove anything."""


def open_store(mirror: str, training: str, notes: Notes) -> Store:
    """The store that the option names. `training` tells trainings apart; `notes` has the id of the run."""
    if mirror == RUN_ARTIFACTS:
        return ArtifactStore(training, notes)
    return S3Store(f"{mirror.rstrip('/')}/{training}")


class S3Store:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.place: Location = parse_location(uri)
        self.client = connect_s3(uri)
        self.found: dict[str, StoredObject] = {}

    def names(self) -> list[str]:
        self.found = {each.name: each for each in list_objects(self.client, self.place, self.place.prefix)}
        return list(self.found)

    def send(self, path: Path, name: str) -> None:
        def request() -> None:
            with open(path, "rb") as file:
                self.client.put_object(Bucket=self.place.bucket, Key=self.place.prefix + name, Body=file)

        patiently(self.uri, request)

    def fetch(self, name: str, path: Path) -> None:
        with open(path, "wb") as file:
            receive(self.client, self.place, self.found[name], file)

    def remove(self, folder: str) -> None:
        for each in list_objects(self.client, self.place, f"{self.place.prefix}{folder}/"):
            patiently(self.uri, partial(self.client.delete_object, Bucket=self.place.bucket, Key=each.key))


class ArtifactStore:
    """Artifacts of the run in the notes, or else of the newest run of the training."""

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
        run_id, client = self.run_id(), MlflowClient()
        pending, found = [ARTIFACT_FOLDER] if run_id else [], []
        while pending:
            entries = client.list_artifacts(run_id, pending.pop())
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
            Path(MlflowClient().download_artifacts(self.run_id(), f"{ARTIFACT_FOLDER}/{name}", folder)).replace(path)

    def remove(self, folder: str) -> None:
        run = MlflowClient().get_run(self.run_id())
        with contextlib.suppress(NotImplementedError):
            get_artifact_repository(run.info.artifact_uri).delete_artifacts(f"{ARTIFACT_FOLDER}/{folder}")
