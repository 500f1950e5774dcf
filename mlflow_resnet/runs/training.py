"""Records a training in its run: before, during and after it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from mlflow.entities import Run

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import join_names
from mlflow_resnet.evaluation.evaluation import Evaluation, evaluate_directory, prefix_metrics
from mlflow_resnet.evaluation.precision_checks import check_metrics, precision_checks
from mlflow_resnet.images.audit.findings import AuditedImage, Finding, findings
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.layout import TEST, TRAIN, VAL
from mlflow_resnet.images.scan import Scan
from mlflow_resnet.io.console import say
from mlflow_resnet.mlflow_seams import NOTE_TAG
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import assemble_network
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.runs.preparation import Training
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.card import MAX_VERSION, TEMPERATURE, CardFacts, cut_text, headline_tags, training_card
from mlflow_resnet.tracking.pieces import VersionPiece
from mlflow_resnet.tracking.record import Recorder, make_recorder
from mlflow_resnet.tracking.training_record import TrainingRecord, note_result, read_record
from mlflow_resnet.training.course import EpochResult
from mlflow_resnet.training.saving import Saving


def train_in_run(options: TrainOptions, training: Training, run: Run) -> TrainingRecord:
    """Trains, and delivers each piece of the record at once."""
    recorder = make_recorder(run)
    best, classifier = train_recorded(options, training, recorder)
    note_result(recorder.ids, best.epoch, best.metrics, classifier)
    return read_record(recorder.ids)


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
    classifier, train_set, val_set = training.classifier, training.train_set, training.val_set
    if not recorder.ids.get("begun"):
        log_beginning(options, training, recorder)
        found = audit_training(training, recorder) if options.audit else ()
        record.begin_model(recorder, val_set)
        recorder.ids.note(begun=True, audit=[f"{finding.kind} {finding.images}" for finding in found])
    with record.model_fails_with(recorder):
        with contextlib.closing(training.epochs(options, saving)) as epochs:
            for result in epochs:
                if result.epoch not in known:
                    evaluated = None
                    if options.epoch_models and result.weights:
                        network = assemble_network(classifier.architecture, len(classifier.classes), result.weights)
                        evaluated = replace(classifier, network=network)
                    record.log_epoch(
                        recorder, result, train_set, val_set, classifier=evaluated, serving_for=options.serving_for
                    )
                if result.is_best:
                    best = result
        classifier = replace(classifier, temperature=best.evaluation.fit_temperature())
        machine = options.device, options.num_workers
        checks = precision_checks(classifier, best.evaluation, val_set.directory, *machine)
        classifier = replace(classifier, precision_checks=checks)
        predictor = Predictor(classifier, *machine)
        best, evaluations = measure_best(training, recorder, best, predictor, check_metrics(checks))
        record.log_classifier(recorder, classifier, best.epoch, options.serving_for)
    for context, evaluation in evaluations.items():
        record.log_report(recorder, evaluation, training.held_out[context], predictor, context)
    log_card(options, training, recorder, best, evaluations)
    return best, classifier


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


def environment_params() -> dict[str, Any]:
    """Returns what decides the bits of the weights besides the options and the processor."""
    return {"torch_version": torch.__version__, "torch_threads": torch.get_num_threads()}


def audit_training(training: Training, recorder: Recorder) -> Sequence[Finding]:
    """Prints and logs the findings in a training's images."""
    sets = {TRAIN: training.train_set, VAL: training.val_set} | ({TEST: training.test_set} if training.test_set else {})
    images = []
    for part, data in sets.items():
        images += collect_audited_images(part, data.directory, data.found)
    found = findings(images)
    record.log_audit(recorder, images, found)
    if found:
        kinds = join_names(f"{finding.kind} {finding.images}" for finding in found)
        say(f"audit: {kinds} images; see audit/report.html in the run")
    return found


def collect_audited_images(part: str, directory: LabeledDirectory, found: Scan) -> list[AuditedImage]:
    """The images of a scanned directory, which is the `part` train, val or test of the data."""
    rows = zip(directory.names, directory.labels, directory.paths, strict=True)
    return [AuditedImage(part, name, label, path, found.facts[name]) for name, label, path in rows]


def measure_best(
    training: Training, recorder: Recorder, best: EpochResult, predictor: Predictor, found: Mapping[str, float]
) -> tuple[EpochResult, dict[str, Evaluation]]:
    """Measures the calibrated classifier of the best epoch and records the numbers.

    They are logged at step 0: then MLflow's UI draws bars beside each other, one for each run.

    Args:
        found: numbers of it that are known already.

    Returns:
        The epoch with all its metrics; and evaluations by context.
    """
    evaluations = {"validation": best.evaluation.at_temperature(predictor.temperature)}
    if training.test_set:
        evaluations["test"] = evaluate_directory(predictor, training.test_set.directory)
        record.log_data(recorder, training.test_set, "test", of_model=True)
    metrics = {TEMPERATURE: predictor.temperature, **found}
    record.log_metrics(recorder, metrics, of_model=True, timestamp=best.timestamp)
    for context, evaluation in evaluations.items():
        new = evaluation.metrics if context == "test" else {}  # each epoch has logged those of validation
        values = prefix_metrics(new | evaluation.details, context)
        record.log_metrics(recorder, values, training.held_out[context], of_model=True, timestamp=best.timestamp)
        metrics |= values
    return replace(best, metrics=best.metrics | metrics), evaluations


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
        held_out=training.held_out,
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
