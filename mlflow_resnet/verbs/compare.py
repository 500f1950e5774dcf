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
from mlflow_resnet.evaluation.pairing import Pairing, compare_predictions
from mlflow_resnet.evaluation.predictions import TRUTH
from mlflow_resnet.evaluation.report import PREDICTIONS
from mlflow_resnet.io.parquet import ParquetLimits, check_parquet
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.characters import format_rows, in_lines
from mlflow_resnet.mlflow_seams import DATASET_CONTEXT_TAG
from mlflow_resnet.model.prediction import IMAGE, SCORED_LABELS
from mlflow_resnet.options.compare import CompareOptions
from mlflow_resnet.options.metric_names import HEADLINE
from mlflow_resnet.tracking.run import has_run
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
        raise InvalidOptionsError(
            [f"run {join_names(unknown)} is not on the tracking server; `mlflow runs list` shows ids"]
        )
    runs = [MlflowClient().get_run(each) for each in run_ids]
    context = common_context(runs) if options.on == "auto" else options.on
    check_same_images(runs, context)
    tables = [read_predictions(run, context) for run in runs]
    try:
        pairings = [compare_predictions(tables[0], other) for other in tables[1:]]
    except (ValueError, TypeError, LookupError) as error:
        problem = f"the {context}/{PREDICTIONS} of the runs do not fit together ({one_line(error)})"
        raise InvalidOptionsError([f"{problem}; evaluate the models again"]) from None
    return RunComparison(context, len(tables[0]), metrics_table(runs, context), pairings)


def common_context(runs: Sequence[Run]) -> str:
    """The first context whose images all runs have as an input."""
    common = [context for context in METRIC_PREFIXES if all(digest_in(run, context) for run in runs)]
    if not common:
        raise InvalidOptionsError(["the runs have no kind of images in common: validation, test or evaluation"])
    return common[0]


def digest_in(run: Run, context: str) -> str:
    """The digest of the images that the run has as an input in this context; empty if there are none."""
    found = (
        each.dataset.digest
        for each in (run.inputs.dataset_inputs if run.inputs else ())
        if any(tag.key == DATASET_CONTEXT_TAG and tag.value == context for tag in each.tags)
    )
    return next(found, "")


def check_same_images(runs: Sequence[Run], context: str) -> None:
    digests = {run.info.run_id: digest_in(run, context) for run in runs}
    if missing := [run_id for run_id, digest in digests.items() if not digest]:
        raise InvalidOptionsError([f"run {join_names(missing)} has no {context} images; choose others with --on"])
    if len(set(digests.values())) > 1:
        told = join_names(f"{run_id}: {digest}" for run_id, digest in digests.items())
        problem = f"the {context} images of the runs are not the same (digests {told})"
        raise InvalidOptionsError([f"{problem}; evaluate the models on the same ones"])


def read_predictions(run: Run, context: str) -> pd.DataFrame:
    """Reads the predictions of a run.

    Raises:
        InvalidOptionsError: if it logged no predictions.
    """
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory(prefix="mlflow-resnet-") as folder:
        try:
            path = download_artifacts(run_id=run_id, artifact_path=f"{context}/{PREDICTIONS}", dst_path=folder)
        except (MlflowException, OSError):
            raise InvalidOptionsError(
                [f"run {run_id} has no {context}/{PREDICTIONS}; evaluate its model again"]
            ) from None
        try:
            check_parquet(path, PREDICTIONS_LIMITS)
            return pd.read_parquet(path, columns=[IMAGE, TRUTH, SCORED_LABELS])
        except (InvalidTableError, pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            problem = f"run {run_id} has a {context}/{PREDICTIONS} that is damaged ({one_line(error)})"
            raise InvalidOptionsError([f"{problem}; evaluate its model again"]) from None


def metrics_table(runs: Sequence[Run], context: str) -> pd.DataFrame:
    """A row per run; a metric that one of them lacks is left out."""
    rows = [{"run": run.info.run_id, "name": run.info.run_name} | pick_headline_metrics(run, context) for run in runs]
    return pd.DataFrame(rows).dropna(axis="columns")


def pick_headline_metrics(run: Run, context: str) -> dict[str, float]:
    """The headline metrics of a part of the data, by their plain names."""
    names = {name: prefix_metric(name, context) for name in HEADLINE}
    names["log_loss"] = prefix_metric("calibration/log_loss", context)
    return {name: run.data.metrics[logged] for name, logged in names.items() if logged in run.data.metrics}


def summarize_compare(result: RunComparison, options: CompareOptions) -> str:
    columns = result.table.drop(columns="run")
    lines = [
        f"{result.images} {result.context} images",
        "",
        *format_rows(columns),
    ]
    first, *others = zip(result.table["run"], result.table["name"], strict=True)
    for (run, name), pairing in zip(others, result.pairings, strict=True):
        lines += [
            "",
            f"{name} ({run}) and {first[1]} ({first[0]})",
            f"  right: both {pairing.both}, only the former {pairing.only_second}, "
            f"only the latter {pairing.only_first}, neither {pairing.neither}",
            f"  accuracy {pairing.difference:+.4f}, McNemar's exact test p = {pairing.p_value:.4g}: "
            f"{judge_pairing(pairing)}",
        ]
    return in_lines(lines)


def judge_pairing(pairing: Pairing) -> str:
    if pairing.p_value < 0.05:
        return "hardly luck" if pairing.difference > 0 else "hardly luck, and worse"
    return "may well be luck"
