"""Records a training in its run: before, during and after it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from mlflow.entities import Run

from mlflow_resnet._version import __version__
from mlflow_resnet.evaluation.evaluation import Evaluation, evaluate_directory, prefix_metrics
from mlflow_resnet.evaluation.precision_checks import check_metrics, precision_checks
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.layout import TEST, TRAIN, VAL
from mlflow_resnet.mlflow_seams import NOTE_TAG
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import assemble_network
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.audited import audit_training
from mlflow_resnet.runs.preparation import Training
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.card import MAX_VERSION, TEMPERATURE, CardFacts, cut_text, headline_tags, training_card
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.pieces import VersionPiece
from mlflow_resnet.tracking.record import Recorder, make_recorder
from mlflow_resnet.tracking.training_record import TrainingRecord, note_result, read_record
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.saving import Saving


def log_beginning(options: TrainOptions, training: Training, recorder: Recorder) -> None:
    """Logs what is known before the first step."""
    record.log_params(recorder, all_params(options, training))
    record.log_data(recorder, training.train_set, "training")
    record.log_tags(recorder, {"mlflow_resnet.version": __version__, "mlflow_resnet.start": training.start})
    facts = json.dumps(dict(training.classifier.training), indent=2)
    record.log_files(recorder, lambda folder: (folder / "training.json").write_text(facts))
    record.log_gallery(recorder, training.train_images)


def all_params(options: TrainOptions, training: Training) -> dict[str, Any]:
    """Returns the options, the decisions for "auto", and the environment."""
    decided = {f"recipe.{name}": value for name, value in asdict(training.recipe).items()}
    return asdict(options) | decided | environment_params()


def train_recorded(
    options: TrainOptions,
    training: Training,
    recorder: Recorder,
    saving: Saving | None = None,
    known: Container[int] = (),
) -> tuple[EpochResult, ImageClassifier]:
    """Trains, or resumes, within the record. Returns the best epoch and its classifier.

    Args:
        known: the epochs that the record has already.
    """
    train_set, val_set = training.train_set, training.val_set
    if not recorder.ids.get("begun"):
        log_beginning(options, training, recorder)
        found = audit_training(recorder, list_parts(training)) if options.audit else ()
        record.begin_model(recorder, val_set)
        recorder.ids.note(begun=True, audit=[f"{finding.kind} {finding.images}" for finding in found])
    with record.model_fails_with(recorder):
        with contextlib.closing(training.epochs(options, saving)) as epochs:
            for result in epochs:
                if result.epoch not in known:
                    classifier = classifier_after(training, result) if options.epoch_models else None
                    record.log_epoch(recorder, result, train_set, val_set, classifier=classifier)
                if result.is_best:
                    best = result
        classifier = calibrate_classifier(training.classifier, best)
        classifier = add_precision_checks(classifier, best, options, training.val_set.directory)
        predictor = Predictor(classifier, options.device, options.num_workers)
        best, parts = measure_best(training, recorder, best, predictor, check_metrics(classifier.precision_checks))
        record.log_classifier(recorder, classifier, best.epoch)
    for context, (data, evaluation) in parts.items():
        record.log_report(recorder, evaluation, data, predictor, context)
    log_card(options, training, recorder, best, {context: evaluation for context, (_, evaluation) in parts.items()})
    return best, classifier


def measure_best(
    training: Training, recorder: Recorder, best: EpochResult, predictor: Predictor, found: Mapping[str, float]
) -> tuple[EpochResult, dict[str, tuple[ImageDirectoryDataset, Evaluation]]]:
    """Measures the calibrated classifier of the best epoch and records the numbers.

    They are logged at step 0: then MLflow's UI draws bars beside each other, one for each run.

    Args:
        found: numbers of it that are known already.

    Returns:
        The epoch with all its metrics; and images and evaluation, by context: validation, and perhaps test.
    """
    parts = {"validation": (training.val_set, best.evaluation.at_temperature(predictor.temperature))}
    if training.test_set:
        parts["test"] = training.test_set, evaluate_directory(predictor, training.test_set.directory)
        record.log_data(recorder, training.test_set, "test", of_model=True)
    metrics = {TEMPERATURE: predictor.temperature, **found}
    record.log_metrics(recorder, metrics, of_model=True, timestamp=best.timestamp)
    for context, (data, evaluation) in parts.items():
        values = list_part_metrics(context, evaluation)
        record.log_metrics(recorder, values, data, of_model=True, timestamp=best.timestamp)
        metrics |= values
    return replace(best, metrics=best.metrics | metrics), parts


def classifier_after(training: Training, result: EpochResult) -> ImageClassifier | None:
    """The classifier as it was evaluated in an epoch; None if the weights are gone."""
    if not result.weights:
        return None
    last = training.classifier
    return replace(last, network=assemble_network(last.architecture, len(last.classes), result.weights))


def list_part_metrics(context: str, evaluation: Evaluation) -> dict[str, float]:
    """Returns an evaluation's metrics that no epoch has logged, named after its part of the data."""
    new = evaluation.details if context == "validation" else evaluation.metrics | evaluation.details
    return prefix_metrics(new, context)


def calibrate_classifier(classifier: ImageClassifier, best: EpochResult) -> ImageClassifier:
    """Returns the classifier of the best epoch with the temperature that fits the validation images."""
    return replace(classifier, temperature=best.evaluation.fit_temperature())


def add_precision_checks(
    classifier: ImageClassifier, best: EpochResult, options: TrainOptions, val: LabeledDirectory
) -> ImageClassifier:
    """Returns the classifier with checks of faster precisions on the validation images."""
    checks = precision_checks(classifier, best.evaluation, val, options.device, options.num_workers)
    return replace(classifier, precision_checks=checks)


def list_parts(training: Training) -> dict[str, ImageDirectoryDataset]:
    """Its images, by the names that an audit gives them."""
    parts = {TRAIN: training.train_set, VAL: training.val_set}
    return parts | ({TEST: training.test_set} if training.test_set else {})


def log_card(
    options: TrainOptions,
    training: Training,
    recorder: Recorder,
    best: EpochResult,
    evaluations: Mapping[str, Evaluation],
) -> None:
    """The description of the run, and of the version if the model is to be registered."""
    facts = CardFacts(
        options=options,
        recipe=training.recipe,
        train=training.train_set,
        held_out={"validation": training.val_set} | ({"test": training.test_set} if training.test_set else {}),
        start=training.start,
        findings=recorder.ids.get("audit", ()),
        best_epoch=best.epoch,
        metrics=best.metrics,
        evaluations=evaluations,
        environment=environment_params(),
    )
    card = training_card(facts)
    record.log_tags(recorder, {NOTE_TAG: card})
    tags = headline_tags(evaluations)
    recorder.ids.note(headline=tags)  # for a version that is registered later
    if name := options.registered_model_name:
        recorder.put(VersionPiece(name=name, alias=options.alias, description=cut_text(card, MAX_VERSION), tags=tags))


def train_in_run(options: TrainOptions, training: Training, run: Run) -> TrainingRecord:
    """Trains, and delivers each piece of the record at once."""
    recorder = make_recorder(run)
    best, classifier = train_recorded(options, training, recorder)
    note_result(recorder.ids, best.epoch, best.metrics, classifier)
    return read_record(recorder.ids)


def environment_params() -> dict[str, Any]:
    """Returns what decides the bits of the weights besides the options and the processor."""
    return {"torch_version": torch.__version__, "torch_threads": torch.get_num_threads()}
