"""The checkpoint folder of one training: its identity, whether it may be resumed, and its result."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import torch

from mlflow_resnet.errors import CheckpointError, OutputError, join_names
from mlflow_resnet.io.atomic import output_errors, write_file
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.own_folders import mark_own
from mlflow_resnet.io.owned import follow_links, lock_directory, make_private
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.credentials import all_without_credentials
from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.options.base import AUTO, Affects, names_affecting
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.mirror import NOTES, ArtifactStore, Mirror, S3Store
from mlflow_resnet.runs.preparation import Training
from mlflow_resnet.tracking.outbox import Outbox
from mlflow_resnet.tracking.pieces import EpochPiece, TagsPiece, end_run
from mlflow_resnet.tracking.run import choose_experiment, find_gone, restore_run, try_briefly
from mlflow_resnet.tracking.training_record import TrainingRecord, find_unregistered, note_result, read_record
from mlflow_resnet.training.checkpoints import KEPT, CheckpointFolder
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.recipe import phases
from mlflow_resnet.training.saving import checkpoint_bytes

ROOT = "checkpoints"
DIRECTORIES = names_affecting(TrainOptions, Affects.IMAGES)
WITHOUT_EFFECT = names_affecting(TrainOptions, Affects.NOTHING)
OF_THIS_MACHINE = (*DIRECTORIES, "tracking server", "torch threads", "torch version")
ADDING_NOTHING = (("experiment", ""), ("split_seed", AUTO))  # to a digest: the defaults of what was added later
# What a checkpoint has no place for if it changes.
FIXED_FACTS = {"architecture", "classes", "phases", "chosen optimizer", "averaged weights", "validation images"}


@contextmanager
def training_folder(options: TrainOptions) -> Iterator[TrainingFolder | None]:
    """The folder that the options name, for this process alone; None if they want no checkpoints.

    Raises:
        OutputError: if it cannot be written.
        CheckpointError: if another training is using it.
    """
    if not options.checkpoint_minutes:
        yield None
        return
    path = Path(options.checkpoint_dir or default_folder(options)).absolute()
    with output_errors(path):
        path = follow_links(path)
        if not options.checkpoint_dir:
            make_private(path.parent)
        make_private(path)
        mark_own(path)
        write_file(path / ".writable", b"")
        (path / ".writable").unlink()
    with lock_directory(path, path, CheckpointError):
        yield TrainingFolder(path)


@contextmanager
def open_training_folder(directory: str) -> Iterator[TrainingFolder]:
    """The folder of a training that is over or was interrupted.

    Raises:
        CheckpointError: if it is none, or the training is going on.
    """
    path = follow_links(directory)
    if not (path / NOTES).is_file():
        raise CheckpointError(path, "holds no training; give the folder that a training named, or its --checkpoint-dir")
    with lock_directory(path, path, CheckpointError):
        yield TrainingFolder(path)


def default_folder(options: TrainOptions) -> str:
    """A folder below the current one for this command; an old one may have a name to which credentials added."""
    known = as_given(options), identify_training(options)
    old, new = (os.path.join(ROOT, f"{options.architecture}-{digest_identity(each)}") for each in known)
    return old if os.path.isdir(old) else new


def digest_identity(identity: Mapping[str, Any]) -> str:
    """12 hex digits."""
    facts = {name: value for name, value in identity.items() if (name, value) not in ADDING_NOTHING}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def identify_training(options: TrainOptions) -> dict[str, Any]:
    """Returns what identifies a training before its images are read. It is written and copied: without credentials."""
    return all_without_credentials(as_given(options))


def as_given(options: TrainOptions) -> dict[str, Any]:
    """Returns the identity with the credentials that are in URIs."""
    chosen = {name: value for name, value in asdict(options).items() if name not in WITHOUT_EFFECT}
    for name in DIRECTORIES:
        if chosen[name] and not is_remote(chosen[name]):
            chosen[name] = os.path.realpath(chosen[name])
    return chosen | {"tracking server": mlflow.get_tracking_uri(), "experiment": choose_experiment(options.offline)}


def identify_training_fully(options: TrainOptions, training: Training) -> dict[str, Any]:
    """Returns the identity with everything that decides the bits of the weights on one machine."""
    return identify_training(options) | {
        "training images": training.train_set.digest,
        "validation images": training.val_set.digest,
        "test images": training.test_set.digest if training.test_set else "",
        "torch threads": torch.get_num_threads(),
        "torch version": torch.__version__,
        "classes": list(training.train_set.directory.class_names),
        "phases": [phase.strategy for phase in phases(training.recipe)],
        "chosen optimizer": training.recipe.optimizer,
        "averaged weights": bool(training.recipe.ema_decay),
    }


class TrainingFolder:
    """Checkpoints of a training, notes of its identity, run and result, and the outbox."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = CheckpointFolder(path)
        self.notes = Notes(path / NOTES)
        self.outbox = Outbox(path / "outbox", self.notes)
        self.mirror: Mirror | None = None

    def begin(self, identity: Mapping[str, Any], resume: str, mirror: str = "") -> None:
        """Decides whether to resume from this folder or the mirror, and claims the folder for this training.

        Newer checkpoints are fetched from the mirror, unless this folder has another training.

        Raises:
            CheckpointError: if what is here is of another training that was not finished, or was not delivered.
        """
        changed = differences(self.notes.get("identity", {}), identity)
        if resume == "never" or (changed and not self.is_unfinished):
            self.begin_anew()
            changed = {}
        if mirror:
            training = digest_identity({name: value for name, value in identity.items() if name not in OF_THIS_MACHINE})
            artifacts = ArtifactStore(training, self.notes)
            store = artifacts if mirror == "artifacts" else S3Store(f"{mirror.rstrip('/')}/{training}")
            self.mirror = Mirror(store, self.checkpoints, self.notes)
            if resume == "never":
                self.mirror.clear()
            elif not changed and not self.is_finished:
                self.mirror.fetch_newer()
                changed = differences(self.notes.get("identity", {}), identity)
        if self.is_unfinished:
            if resume == "auto":
                self.refuse(changed, "Give these again to go on with it, or --resume force to go on with the new ones,")
            self.refuse({name: text for name, text in changed.items() if name in FIXED_FACTS}, "Give these again,")
            say(f"going on from the checkpoint in {self.path}")
            if changed and self.notes.get("begun"):  # tags, since the params of a run cannot be changed
                tag = f"mlflow_resnet.changed_at_checkpoint_{max(self.checkpoints.numbers())}"
                self.outbox.put(TagsPiece(tags={tag: join_names(changed.values())}))
        self.notes.note(identity=dict(identity), record_id=self.notes.get("record_id") or uuid.uuid4().hex)

    def confirm(self, identity: Mapping[str, Any], name: str, alias: str) -> None:
        """Delivers the rest of a finished training and restores what the server has lost of it.

        A run in the trash is restored, and a model that is no version of `name` any more is registered again. If run
        or model are gone, the folder is made ready for the training to be done again.

        Raises:
            NotDeliveredError: if the server does not take it.
        """
        self.deliver()
        if gone := find_gone(self.notes):
            say(f"the training in {self.path} was complete, but {gone}, so it is done again")
            self.begin_anew()
            if self.mirror:
                self.mirror.clear()
            self.notes.note(identity=dict(identity), record_id=uuid.uuid4().hex)
            return
        restore_run(self.notes["run_id"])
        if name:
            self.register(name, alias)

    def register(self, name: str, alias: str) -> None:
        """Registers the delivered model of a finished training under `name`, unless it is a version of that already.

        Raises:
            NotDeliveredError: if the server does not take it.
        """
        if version := find_unregistered(self.notes, name, alias):
            self.outbox.put(version)
            self.deliver()

    def check_room(self, options: TrainOptions, training: Training) -> None:
        """Raises OutputError if the disk has no room for the checkpoints that are to come.

        Nor for the models of epochs that wait here for `sync`, unless a time budget decides how many there will be.
        """
        if self.is_finished:
            return
        last, models = phases(training.recipe)[-1], 0
        if options.offline and options.epoch_models and not options.max_minutes:
            left = training.recipe.epochs - len(list(self.outbox.find(EpochPiece)))
            models = left * sum(tensor.nbytes for tensor in training.classifier.network.state_dict().values())
        size = checkpoint_bytes(training.classifier, last, options.freeze_until, len(training.val_images))
        self.checkpoints.check_room(size, KEPT + 1 + bool(self.mirror), models)

    def refuse(self, changed: Mapping[str, str], remedy: str) -> None:
        """Raises an error if anything has changed."""
        if changed:
            what = f"holds an unfinished training with other settings: {join_names(changed.values())}"
            raise CheckpointError(self.path, f"{what}. {remedy} or --resume never to begin anew")

    def begin_anew(self) -> None:
        """Removes the content of the folder, unless it is a finished training that was not delivered."""
        if self.is_finished and self.outbox.pieces():
            remedy = f"Deliver it with mlflow-resnet sync {self.path}, or remove the folder"
            raise CheckpointError(self.path, f"holds a finished training that was not delivered. {remedy}")
        self.checkpoints.clear()
        self.outbox.clear()
        self.notes.clear()

    @property
    def is_unfinished(self) -> bool:
        return bool(self.checkpoints.numbers()) and not self.is_finished

    @property
    def is_finished(self) -> bool:
        return "best_epoch" in self.notes

    def finish(self, best: EpochResult, classifier: ImageClassifier) -> None:
        """Notes the result, whose model is in the outbox or delivered, and keeps no checkpoints."""
        self.checkpoints.clear(but=1)  # if the disk is full, this makes room
        try:
            note_result(self.notes, best.epoch, best.metrics, classifier)
        except OutputError as error:
            say(error.message, "the training is complete, but the same command will not know it")
        self.checkpoints.clear()

    def deliver(self) -> None:
        """Delivers the rest of the record, and the end of the run.

        Raises:
            NotDeliveredError: if that is not possible; what is left is kept.
        """
        try:
            self.outbox.deliver_all()
        except CheckpointError:
            raise
        except Exception as error:  # connections, servers, databases, object stores: no common base class
            raise self.outbox.not_delivered(one_line(error)) from None
        try_briefly(lambda: end_run(self.notes))

    def read_record(self) -> TrainingRecord:
        """Reads what the training has left, which may be unfinished or not delivered."""
        record = read_record(self.notes)
        waiting = self.outbox.model_path()
        return replace(record, model_uri=str(waiting)) if waiting else record


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Returns the differences in words, by name. The same images may be elsewhere."""
    names = [name for name in now if name in before and before[name] != now[name]]
    if not {"training images", "validation images", "test images"}.intersection(names):
        names = [name for name in names if name not in DIRECTORIES]
    return {name: f"{name} was {before[name]!r} and is {now[name]!r}" for name in names}
