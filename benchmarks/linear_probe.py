"""A linear probe on the solar cells: ours against torchvision's reference loop with all but the head frozen.

resnet18 at 224 pixels, 20 epochs, one backbone for both, trained here on handwritten digits; each with its own
defaults of learning rate, batch size and augmentation. The reference loop sends every image through the whole network
in every epoch. With --reference-epochs it runs fewer epochs and its time for 20 is extrapolated from them; the table
then says so, and its accuracy is that of the epochs it ran.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import click
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
from backbone import QUICK_IMAGES, backbone
from command import common
from setting import Setting, fit

CROP_SIZE, QUICK_CROP_SIZE = 224, 64  # pixels
EPOCHS = 20
ACCURACY, SECONDS = "test accuracy", "seconds"
HEADER = ["", "seconds of 20 epochs", "time to ours'", "test accuracy, %", "ours minus it, points", "peak MiB"]


def probe_job(contestant: str, setting: Setting, test_dir: Path, repetition: int) -> Measurement:
    """Trains a head. An epoch that is missing counts as long as the mean of those run, without its validation."""
    trained = fit(contestant, replace(setting, seed=repetition))
    missing = EPOCHS - len(trained.epoch_seconds) if contestant != "ours" else 0  # ours may stop early
    seconds = trained.total_seconds + missing * mean(trained.epoch_seconds)
    return {SECONDS: seconds, ACCURACY: trained.score(test_dir)}


@click.command(help=__doc__)
@common
@click.option("--reference-epochs", default=EPOCHS, show_default=True, type=click.IntRange(1, EPOCHS))
@click.option("--workers", default=0, show_default=True, help="of the reference loop's data loader")
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict[str, Any],
    reference_epochs: int,
    workers: int,
) -> None:
    import data

    print_machine()
    split = data.prepared(data_dir, "solar")
    weights = backbone(data_dir, "solar", quick)
    setting = Setting(
        split.train, split.val, CROP_SIZE, workers=workers, device=device, weights=weights, linear_probe=True, ours=ours
    )
    test_dir = split.test
    if quick:
        few = {name: data.with_count(getattr(split, name), QUICK_IMAGES, data_dir) for name in ("train", "val", "test")}
        setting = replace(setting, train_dir=few["train"], val_dir=few["val"], crop_size=QUICK_CROP_SIZE)
        test_dir, reference_epochs, repetitions = few["test"], 2, 2
    reference = (
        f"torchvision ({reference_epochs} epochs run, extrapolated)" if reference_epochs < EPOCHS else "torchvision"
    )
    jobs = {
        "ours": partial(probe_job, "ours", replace(setting, epochs=EPOCHS), test_dir),
        reference: partial(probe_job, "torchvision", replace(setting, epochs=reference_epochs), test_dir),
    }
    print_results(setting, alternate(jobs, repetitions))


def print_results(setting: Setting, results: dict[str, list[Measurement]]) -> None:
    rows = []
    own_seconds = values_of(results["ours"], SECONDS)
    for name, measurements in results.items():
        seconds = values_of(measurements, SECONDS)
        accuracy = mean_and_deviation(values_of(measurements, ACCURACY))
        difference = "" if name == "ours" else paired_difference(results["ours"], measurements, ACCURACY)
        rows.append([name, spread(seconds), ratio(seconds, own_seconds), accuracy, difference, memory(measurements)])
    print_table(f"linear probe: resnet18@{setting.crop_size} on solar cells", HEADER, rows)


if __name__ == "__main__":
    main()
