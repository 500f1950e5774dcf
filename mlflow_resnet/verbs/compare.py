"""Runs beside each other, by what they predicted of the same images."""

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

from mlflow_resnet.errors import InvalidOptionsError, InvalidTableError, listed
from mlflow_resnet.evaluation.evaluate import HEADLINE, PREFIXES, name_of
from mlflow_resnet.evaluation.pairing import Pairing, paired
from mlflow_resnet.evaluation.predictions import IMAGE, TRUTH
from mlflow_resnet.evaluation.report import PREDICTIONS
from mlflow_resnet.io.parquet.limits import ParquetLimits, check_parquet
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.characters import in_lines, rows_of
from mlflow_resnet.model.prediction import LABEL
from mlflow_resnet.tracking.pieces import CONTEXT_TAG
from mlflow_resnet.tracking.run import exists
from mlflow_resnet.tracking.server import check_servers

LIMITS = ParquetLimits(rows=50_000_000, decoded_bytes=16 * 2**30)  # of predictions


@dataclass(frozen=True)
class RunComparison:
    """Runs on the same images.

    Attributes:
        context: which images: validation, test or evaluation.
        table: a row per run: run, name, and the headline metrics that all have; the loss is the calibrated one.
        pairings: of the first run with each other one.
    """

    context: str
    images: int
    table: pd.DataFrame
    pairings: list[Pairing]


def compare(run_ids: Sequence[str], on: str = "auto") -> RunComparison:
    """Compares what runs of `train` or `evaluate` predicted of the same images.

    Args:
        on: validation, test or evaluation images; auto: test images if all runs have them, else the others in turn.

    Raises:
        InvalidOptionsError: if there are not two runs, one is unknown, or they did not predict the same images.
    """
    check_servers(registry=False)
    if len(run_ids) < 2 or len(set(run_ids)) < len(run_ids):
        raise InvalidOptionsError([f"runs are {listed(run_ids)}; give two or more, each once"])
    if unknown := [each for each in run_ids if not exists(each)]:
        raise InvalidOptionsError(
            [f"run {listed(unknown)} is not on the tracking server; `mlflow runs list` shows ids"]
        )
    runs = [MlflowClient().get_run(each) for each in run_ids]
    context = common_context(runs) if on == "auto" else on
    check_same_images(runs, context)
    tables = [predictions_of(run, context) for run in runs]
    try:
        pairings = [paired(tables[0], other) for other in tables[1:]]
    except (ValueError, TypeError, LookupError) as error:
        problem = f"the {context}/{PREDICTIONS} of the runs do not fit together ({one_line(error)})"
        raise InvalidOptionsError([f"{problem}; evaluate the models again"]) from None
    return RunComparison(context, len(tables[0]), metrics_table(runs, context), pairings)


def common_context(runs: Sequence[Run]) -> str:
    """The first context whose images all runs have as an input."""
    common = [context for context in PREFIXES if all(digest_in(run, context) for run in runs)]
    if not common:
        raise InvalidOptionsError(["the runs have no kind of images in common: validation, test or evaluation"])
    return common[0]


def digest_in(run: Run, context: str) -> str:
    """The digest of the images that the run has as an input in this context; empty if there are none."""
    found = (
        each.dataset.digest
        for each in (run.inputs.dataset_inputs if run.inputs else ())
        if any(tag.key == CONTEXT_TAG and tag.value == context for tag in each.tags)
    )
    return next(found, "")


def check_same_images(runs: Sequence[Run], context: str) -> None:
    digests = {run.info.run_id: digest_in(run, context) for run in runs}
    if missing := [run_id for run_id, digest in digests.items() if not digest]:
        raise InvalidOptionsError([f"run {listed(missing)} has no {context} images; choose others with --on"])
    if len(set(digests.values())) > 1:
        told = listed(f"{run_id}: {digest}" for run_id, digest in digests.items())
        problem = f"the {context} images of the runs are not the same (digests {told})"
        raise InvalidOptionsError([f"{problem}; evaluate the models on the same ones"])


def predictions_of(run: Run, context: str) -> pd.DataFrame:
    """What the run predicted.

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
            check_parquet(path, LIMITS)
            return pd.read_parquet(path, columns=[IMAGE, TRUTH, LABEL])
        except (InvalidTableError, pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            problem = f"run {run_id} has a {context}/{PREDICTIONS} that is damaged ({one_line(error)})"
            raise InvalidOptionsError([f"{problem}; evaluate its model again"]) from None


def metrics_table(runs: Sequence[Run], context: str) -> pd.DataFrame:
    """A row per run; a metric that one of them lacks is left out."""
    rows = [{"run": run.info.run_id, "name": run.info.run_name} | shown_metrics(run, context) for run in runs]
    return pd.DataFrame(rows).dropna(axis="columns")


def shown_metrics(run: Run, context: str) -> dict[str, float]:
    """The headline metrics of a part of the data, by their plain names."""
    names = {name: name_of(name, context) for name in HEADLINE}
    names["log_loss"] = name_of("calibration/log_loss", context)
    return {name: run.data.metrics[logged] for name, logged in names.items() if logged in run.data.metrics}


def summarize_compare(result: RunComparison) -> str:
    columns = result.table.drop(columns="run")
    lines = [
        f"{result.images} {result.context} images",
        "",
        *rows_of(columns),
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
