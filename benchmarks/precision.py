"""bf16 against fp32 in ours: test accuracy and time, seed by seed, all else equal.

The difference is the mean over seeds of bf16 minus fp32, with its standard error. With three seeds that is a rough
figure: a difference below about four standard errors shows nothing, and none shown is not none there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from accuracy import ACCURACY, MINUTES, training_job
from alternate import (
    Measurement,
    alternate,
    mean_and_deviation,
    memory,
    paired_difference,
    print_machine,
    print_table,
    ratio,
    spread,
    values_of,
)
from backbone import QUICK_IMAGES
from command import common
from setting import Setting

DATA_SETS = ("digits", "mnist", "solar")
HEADER = ["", "test accuracy, %", "bf16 minus fp32, points", "minutes", "time to bf16's", "peak MiB"]
PRECISIONS = ("bf16", "fp32")


def print_results(title: str, results: dict[str, list[Measurement]]) -> None:
    rows = []
    own_minutes = values_of(results["bf16"], MINUTES)
    for precision, measurements in results.items():
        minutes = values_of(measurements, MINUTES)
        accuracy = mean_and_deviation(values_of(measurements, ACCURACY))
        difference = "" if precision == "bf16" else paired_difference(results["bf16"], measurements, ACCURACY)
        cells = [accuracy, difference, spread(minutes, 2), ratio(minutes, own_minutes), memory(measurements)]
        rows.append([precision, *cells])
    print_table(title, HEADER, rows)


@click.command(help=__doc__)
@common
@click.option("--epochs", default=10, show_default=True, help="of each training")
@click.option("--data-set", "names", type=click.Choice(DATA_SETS), multiple=True, help="default: digits and mnist")
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict[str, Any],
    epochs: int,
    names: Sequence[str],
) -> None:
    import data

    print_machine()
    for name in ("digits",) if quick else names or ("digits", "mnist"):
        split = data.prepared(data_dir, name)
        setting = Setting(split.train, split.val, data.CROP_SIZES[name], epochs=epochs, device=device)
        if quick:
            setting = replace(setting, train_dir=data.with_count(split.train, QUICK_IMAGES, data_dir), epochs=1)
        jobs = {
            precision: partial(training_job, "ours", replace(setting, ours=ours | {"precision": precision}), split.test)
            for precision in PRECISIONS
        }
        title = f"{name}: resnet18@{setting.crop_size}, {setting.epochs} epochs, {repetitions} seeds"
        print_results(title, alternate(jobs, 2 if quick else repetitions))


if __name__ == "__main__":
    main()
