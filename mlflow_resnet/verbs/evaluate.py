"""Measures a model on labeled images."""

from __future__ import annotations

from dataclasses import asdict

from mlflow_resnet.evaluation.evaluation import Evaluation, evaluate_directory
from mlflow_resnet.evaluation.metrics import format_interval
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.text.characters import format_rows, in_lines
from mlflow_resnet.options.evaluate import EvaluateOptions
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.data import scan_dataset
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import end_attached_run, enter_run
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.verbs.frame import open_predictor

SHOWN_DETAILS = ("ranking/auc_ovr", "calibration/ece", "calibration/brier", "abstention/aurc")


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Measures a model on a labeled directory and logs a run with metrics, tables, figures and galleries.

    Raises:
        MlflowResnetError: for anything a user can cause.
    """
    with end_attached_run():
        check_directories(options.image_dir)
        check_servers(registry=options.model_uri.startswith("models:/"))
        predictor = open_predictor(options.model_uri, options, options.precision, options.backend)
        predictor = predictor.at_test_time(options.tta, options.resolution)
        dataset = scan_dataset(options.image_dir, options, "evaluation")
        evaluation = evaluate_directory(predictor, dataset.directory, options.batch_size)
        with enter_run(f"evaluate {options.model_uri}", asdict(options)) as run:
            recorder = make_recorder(run)
            recorder.ids.note(model_id=predictor.model_id or None)
            record.log_params(recorder, asdict(options))
            record.log_evaluation(recorder, evaluation, dataset, predictor)
    return evaluation


def summarize_evaluate(result: Evaluation, options: EvaluateOptions) -> str:
    names = {"top1_accuracy": "overall accuracy (top1_accuracy)"}
    numbers = [
        f"{names.get(name, name):34}{value:.4f}{format_interval(result.intervals.get(name, ()))}"
        for name, value in result.metrics.items()
    ]
    numbers += [f"{name:34}{value:.4f}" for name, value in result.details.items() if name in SHOWN_DETAILS]
    return in_lines([f"{len(result.targets)} images", *numbers, "", *format_rows(result.per_class)])
