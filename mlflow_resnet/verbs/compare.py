"""Compares runs by their predictions for the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_resnet.errors import InvalidOptionsError, InvalidTableError, join_names
from mlflow_resnet.evaluation.evaluation import METRIC_PREFIXES, prefix_metric
from mlflow_resnet.evaluation.pairing import TRUTH, Pairing, compare_predictions
from mlflow_resnet.evaluation.report import PREDICTIONS
from mlflow_resnet.io.parquet import ParquetLimits, check_parquet
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.characters import format_rows, in_lines
from mlflow_resnet.mlflow_seams import DATASET_CONTEXT_TAG
from mlflow_resnet.model.prediction import IMAGE, SCORED_LABELS
from mlflow_resnet.options.compare import CompareOptions
from mlflow_resnet.options.metric_names import HEADLINE
from mlflow_resnet.tracking.run import SEEDS_TAG, has_run
from mlflow_resnet.tracking.server import check_servers

PREDICTIONS_LIMITS = ParquetLimits(rows=50_000_000, decoded_bytes=16 * 2**30)  # of predictions


@dataclass(frozen=True)
class RunComparison:
    """Runs with predictions for the same images.

    Attributes:
        context: which images: validation, test or evaluation.
        table: a row per run: run, name, and the headline metrics that all have; the loss is the calibrated one.
        pairings: of the first run with each other one.
    """

    context: str
    images: int
    table: pd.DataFrame
    pairings: list[Pairing]


def compare(options: CompareOptions) -> RunComparison:
    """Compares the predictions of `train` or `evaluate` runs for the same images.

    Raises:
        InvalidOptionsError: if there are not two runs, one is unknown, or they did not predict the same images.
    """
    run_ids = options.runs
    check_servers(registry=False)
    if len(run_ids) < 2 or len(set(run_ids)) < len(run_ids):
        raise InvalidOptionsError([f"runs are {join_names(run_ids)}; give two or more, each once"])
    if unknown := [each for each in run_ids if not has_run(each)]:
        problem = f"run {join_names(unknown)} is not on the tracking server"
        raise InvalidOptionsError([f"{problem}; `mlflow runs list` shows ids"])
    runs = [MlflowClient().get_run(each) for each in run_ids]
    for run in runs:
        if SEEDS_TAG in run.data.tags:
            problem = f"run {run.info.run_id} holds trainings with several seeds; compare runs below it"
            raise InvalidOptionsError([problem])
    context = choose_context(runs, options.on)
    tables = [read_predictions(run, context) for run in runs]
    try:
        pairings = [compare_predictions(tables[0], other) for other in tables[1:]]
    except (ValueError, TypeError, LookupError) as error:
        problem = f"the {context}/{PREDICTIONS} of the runs do not fit together ({one_line(error)})"
        raise InvalidOptionsError([f"{problem}; evaluate the models again"]) from None
    return RunComparison(context, len(tables[0]), tabulate_metrics(runs, context), pairings)


def choose_context(runs: Sequence[Run], wanted: str) -> str:
    """The context that was asked for, or the first whose images all runs have as an input.

    Raises:
        InvalidOptionsError: if the runs do not have the same images in it.
    """
    digests = {run.info.run_id: find_digests(run) for run in runs}
    common = [context for context in METRIC_PREFIXES if all(found.get(context) for found in digests.values())]
    if wanted == "auto" and not common:
        raise InvalidOptionsError(["the runs have no kind of images in common: validation, test or evaluation"])
    context = common[0] if wanted == "auto" else wanted
    if missing := [run_id for run_id, found in digests.items() if not found.get(context)]:
        raise InvalidOptionsError([f"run {join_names(missing)} has no {context} images; choose others with --on"])
    if len({found[context] for found in digests.values()}) > 1:
        told = join_names(f"{run_id}: {found[context]}" for run_id, found in digests.items())
        problem = f"the {context} images of the runs are not the same (digests {told})"
        raise InvalidOptionsError([f"{problem}; evaluate the models on the same ones"])
    return context


def find_digests(run: Run) -> dict[str, str]:
    """The digests of the images that the run has as inputs, by context; the first of each."""
    found: dict[str, str] = {}
    for each in run.inputs.dataset_inputs if run.inputs else ():
        for tag in each.tags:
            if tag.key == DATASET_CONTEXT_TAG:
                found.setdefault(tag.value, each.dataset.digest)
    return found


def read_predictions(run: Run, context: str) -> pd.DataFrame:
    """Reads the predictions of a run.

    Raises:
        InvalidOptionsError: if it logged no predictions.
    """
    run_id, name = run.info.run_id, f"{context}/{PREDICTIONS}"
    with tempfile.TemporaryDirectory(prefix="mlflow-resnet-") as folder:
        try:
            path = download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder)
        except (MlflowException, OSError):
            raise InvalidOptionsError([f"run {run_id} has no {name}; evaluate its model again"]) from None
        try:
            check_parquet(path, PREDICTIONS_LIMITS)
            return pd.read_parquet(path, columns=[IMAGE, TRUTH, SCORED_LABELS])
        except (InvalidTableError, pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            problem = f"run {run_id} has a {name} that is damaged ({one_line(error)}); evaluate its model again"
            raise InvalidOptionsError([problem]) from None


def tabulate_metrics(runs: Sequence[Run], context: str) -> pd.DataFrame:
    """A row per run with its headline metrics by their plain names; a metric that one of them lacks is left out."""
    names = {name: prefix_metric(name, context) for name in HEADLINE}
    names["log_loss"] = prefix_metric("calibration/log_loss", context)
    rows = []
    for run in runs:
        metrics = {name: run.data.metrics[logged] for name, logged in names.items() if logged in run.data.metrics}
        rows.append({"run": run.info.run_id, "name": run.info.run_name} | metrics)
    return pd.DataFrame(rows).dropna(axis="columns")


def summarize_compare(result: RunComparison, options: CompareOptions) -> str:
    lines = [f"{result.images} {result.context} images", "", *format_rows(result.table.drop(columns="run"))]
    first, *others = zip(result.table["run"], result.table["name"], strict=True)
    for (run, name), pairing in zip(others, result.pairings, strict=True):
        verdict = "may well be luck"
        if pairing.p_value < 0.05:
            verdict = "hardly luck" if pairing.difference > 0 else "hardly luck, and worse"
        lines += [
            "",
            f"{name} ({run}) and {first[1]} ({first[0]})",
            f"  right: both {pairing.both}, only the former {pairing.only_second}, "
            f"only the latter {pairing.only_first}, neither {pairing.neither}",
            f"  accuracy {pairing.difference:+.4f}, McNemar's exact test p = {pairing.p_value:.4g}: {verdict}",
        ]
    return in_lines(lines)
