"""What an evaluation costs beyond predicting, and what temperature scaling does to confidence.

The first table: predicting 10,000 images (decoding and forward passes of resnet18 at 224 pixels, random weights), and
then everything else that an evaluation is: metrics, intervals, tables, figures and galleries. The second: trainings on
solar cells, each calibrated on its validation images; expected calibration error and Brier score on test images that
were used for nothing else, as trained and calibrated.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
from alternate import Measurement, alternate, mean_and_deviation, print_machine, print_table, spread, values_of
from command import common
from setting import Setting

PREDICTING, REST = "seconds predicting", "seconds of the rest"
QUICK_COUNT = 200
AIM = 5  # percent
BEFORE = "_before"


def cost_job(images: Path, crop_size: int, device: str, repetition: int) -> Measurement:
    from mlflow_resnet.evaluation.evaluation import evaluate_directory
    from mlflow_resnet.evaluation.report import write_evaluation_report
    from mlflow_resnet.images.directories import list_labeled
    from mlflow_resnet.model.classifier import new_classifier
    from mlflow_resnet.model.prediction import Predictor
    from mlflow_resnet.model.preprocessing import Preprocessing

    directory = list_labeled(images)
    preprocessing = Preprocessing(round(crop_size / 0.875), crop_size)
    classifier = new_classifier("resnet18", directory.class_names, preprocessing, random_seed=repetition)
    predictor = Predictor(classifier, device)
    started = perf_counter()
    evaluation = evaluate_directory(predictor, directory)
    predicted = perf_counter()
    _ = evaluation.metrics | evaluation.details
    with tempfile.TemporaryDirectory() as folder:
        write_evaluation_report(Path(folder), evaluation, directory, predictor)
    return {PREDICTING: predicted - started, REST: perf_counter() - predicted}


def calibration_job(setting: Setting, test_dir: Path, repetition: int) -> Measurement:
    import ours

    evaluation = ours.fit_calibrated(replace(setting, seed=repetition), test_dir)
    return dict(evaluation.calibration) | {
        "temperature": evaluation.temperature,
        "accuracy": evaluation.headline["top1_accuracy"],
    }


def print_cost(measurements: list[Measurement], count: int) -> None:
    predicting, rest = values_of(measurements, PREDICTING), values_of(measurements, REST)
    share = f"{100 * median(rest) / median(predicting):.1f} %"
    rows = [[str(count), spread(predicting, 1), spread(rest, 2), share]]
    print_table(f"an evaluation; aim: the rest under {AIM} %", ["images", PREDICTING, REST, "rest to predicting"], rows)


def print_calibration(measurements: list[Measurement]) -> None:
    rows = [
        [name, *(mean_and_deviation(values_of(measurements, name + suffix)) for suffix in (BEFORE, ""))]
        for name in ("ece", "brier", "log_loss")
    ]
    print_table("on test images, x 100", ["", "as trained", "calibrated"], rows)
    for name in ("temperature", "accuracy"):
        print(f"{name}: {spread(values_of(measurements, name), 3)}")


@click.command(help=__doc__)
@common
@click.option("--images", "count", default=10_000, show_default=True, help="of the first table")
@click.option("--epochs", default=10, show_default=True, help="of each training")
def main(
    data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any], count: int, epochs: int
) -> None:
    import data

    print_machine()
    name = "digits" if quick else "solar"
    split, crop_size, count = data.prepared(data_dir, name), data.CROP_SIZES[name], QUICK_COUNT if quick else count
    images = data.with_count(split.test, count, data_dir)
    setting = Setting(split.train, split.val, crop_size, epochs=1 if quick else epochs, device=device, ours=ours)
    jobs = {
        "ours, cost": partial(cost_job, images, 32 if quick else 224, device),
        "ours, calibration": partial(calibration_job, setting, split.test),
    }
    results = alternate(jobs, 2 if quick else repetitions)
    print_cost(results["ours, cost"], count)
    print_calibration(results["ours, calibration"])


if __name__ == "__main__":
    main()
