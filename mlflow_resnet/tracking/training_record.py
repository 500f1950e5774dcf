"""What a training leaves: where it is recorded, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from mlflow import MlflowClient

from mlflow_resnet.errors import CheckpointError
from mlflow_resnet.io.console import say
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import build_record
from mlflow_resnet.mlflow_seams import NOTE_TAG
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.precision import PrecisionCheck
from mlflow_resnet.registry.abilities import has_aliases
from mlflow_resnet.registry.versions import find_version
from mlflow_resnet.tracking.card import MAX_VERSION, TEMPERATURE, cut_text
from mlflow_resnet.tracking.pieces import VersionPiece
from mlflow_resnet.tracking.run import find_known, locate_model


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A training as the notes in its folder describe it; it may be unfinished or not delivered.

    Attributes:
        run_id: empty if the record waits to be delivered.
        model_uri: of the logged model, `models:/m-…`, or of the artifacts `runs:/…/model` on a server without logged
            models, or the folder in which it waits to be delivered.
        version: of `registered_model_name`; empty if the model was not registered.
        alias: of the version; empty if none was asked for, or a gate refused it.
        best_epoch: counts from 1; 0 if the training is unfinished.
        metrics: of the best epoch, and of the final evaluation with the prefix `val_`.
        temperature: of the calibrated classifier; 1 if the training is unfinished.
        precision_checks: of faster forms of the classifier; empty if none was tried, or the notes are of mlflow_resnet
            before it noted them.
    """

    run_id: str
    model_uri: str
    version: str
    alias: str
    best_epoch: int
    metrics: dict[str, float]
    temperature: float
    precision_checks: Mapping[str, PrecisionCheck]

    def complete(self, classifier: ImageClassifier) -> TrainResult:
        """Returns the result with the trained `classifier`, calibrated and checked as this record says."""
        known = replace(classifier, temperature=self.temperature, precision_checks=self.precision_checks)
        return TrainResult(**vars(self), classifier=known)


@dataclass(frozen=True, kw_only=True)
class TrainResult(TrainingRecord):
    """What `train` leaves: its record, and the classifier with the weights of the best epoch."""

    classifier: ImageClassifier


def note_result(notes: Notes, best_epoch: int, metrics: Mapping[str, float], classifier: ImageClassifier) -> None:
    """Notes what came of a training. Raises OutputError if that cannot be written."""
    notes.note(
        best_epoch=best_epoch,
        metrics=dict(metrics),
        temperature=classifier.temperature,
        precision_checks={name: asdict(check) for name, check in classifier.precision_checks.items()},
    )


def read_record(notes: Notes) -> TrainingRecord:
    """Reads what `note_result` and the deliveries have noted. Raises CheckpointError if the notes are damaged."""
    run_id, version, alias = (notes.get(name) or "" for name in ("run_id", "version", "alias"))
    metrics = notes.get("metrics", {})
    try:
        checks = {name: build_record(PrecisionCheck, fact) for name, fact in notes.get("precision_checks", {}).items()}
    except ValueError as error:
        what = f"has notes with damaged precision_checks ({one_line(error)}). Remove the folder"
        raise CheckpointError(notes.path.parent if notes.path else "notes", what) from None
    return TrainingRecord(
        run_id=run_id,
        model_uri=locate_model(notes),
        version=version,
        alias=alias,
        best_epoch=notes.get("best_epoch", 0),
        metrics=metrics,
        temperature=notes.get("temperature", metrics.get(TEMPERATURE, 1.0)),  # the metric: in notes of 0.1.0
        precision_checks=checks,
    )


def find_unregistered(ids: Notes, name: str, alias: str) -> VersionPiece | None:
    """Returns the piece to send so that the model is a version of `name`, with the alias if that is free.

    None if that is so; `ids` then say which version it is, and whether it has the alias.
    """
    version = find_version(locate_model(ids), name)
    alias = alias if alias and has_aliases(name, alias) else ""
    model = find_known(lambda: MlflowClient().get_registered_model(name)) if alias else None
    holder = str(model.aliases.get(alias, "")) if model else ""
    if holder and (version is None or holder != str(version.version)):
        say(f"alias {alias} of {name} leads to version {holder} by now, and stays there")
        alias = ""
    if version is None or (alias and not holder):
        card = MlflowClient().get_run(ids["run_id"]).data.tags.get(NOTE_TAG, "")
        tags = ids.get("headline", {})
        return VersionPiece(name=name, alias=alias, description=cut_text(card, MAX_VERSION), tags=tags)
    ids.note(version=str(version.version), alias=alias)
    return None
