"""Test accuracy of default recipes in equal time: ours, torchvision's reference recipe, timm's.

Nothing is tuned to a data set: only crop sizes differ, and they are the same for all. Each contestant plans as many
epochs as end within --minutes, validation included, from a short training that it does not have to pay for; batch size,
learning rate and all else are its defaults. Training and validation images are the same for all; the test images are
seen once, at the end. Mean and standard deviation are over the seeds 1, 2, ...; the split is fixed. With --finetune all
start from one resnet18 that is trained here on other handwritten digits; such a backbone is a weak one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
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
    say,
    spread,
    values_of,
)
from backbone import QUICK_IMAGES, backbone
from command import common
from equal_time import planned
from setting import CONTESTANTS, Setting, fit

DATA_SETS = ("digits", "mnist", "solar", "solar-grouped")
ACCURACY, MINUTES, EPOCHS = "test accuracy", "minutes", "epochs"
HEADER = ["", "test accuracy, %", "ours minus it, points", "epochs", "minutes", "peak MiB"]
QUICK_MINUTES = 0.02


def training_job(contestant: str, setting: Setting, test_dir: Path, repetition: int) -> Measurement:
    """Trains with the repetition's number as seed, then looks at the test images."""
    trained = fit(contestant, replace(setting, seed=repetition))
    accuracy = trained.score(test_dir)
    return {ACCURACY: accuracy, EPOCHS: len(trained.epoch_seconds), MINUTES: trained.total_seconds / 60}


def compare(
    data_set: str, setting: Setting, test_dir: Path, minutes: float, repetitions: int, contestants: Iterable[str]
) -> None:
    """Plans, trains and scores every contestant on one data set, and prints its table."""
    jobs = {}
    for contestant in contestants:
        plan = planned(contestant, setting, minutes)
        say(f"{data_set}: {contestant} has time for {plan.epochs} epochs")
        jobs[contestant] = partial(training_job, contestant, plan, test_dir)
    results = alternate(jobs, repetitions)
    rows = []
    for contestant, measurements in results.items():
        accuracy = mean_and_deviation(values_of(measurements, ACCURACY))
        difference = "" if contestant == "ours" else paired_difference(results["ours"], measurements, ACCURACY)
        time = [spread(values_of(measurements, EPOCHS), 0), spread(values_of(measurements, MINUTES))]
        rows.append([contestant, accuracy, difference, *time, memory(measurements)])
    start = f"from {setting.weights.name}" if setting.weights else "from random weights"
    print_table(
        f"{data_set}: resnet18@{setting.crop_size} {start}, {minutes:g} minutes, {repetitions} seeds", HEADER, rows
    )


@click.command(help=__doc__)
@common
@click.option("--minutes", default=5.0, show_default=True, help="of each training")
@click.option("--finetune", is_flag=True, help="start from a backbone trained on other data")
@click.option("--workers", default=0, show_default=True, help="of the peers' data loaders; see train_speed.py")
@click.option("--data-set", "names", type=click.Choice(DATA_SETS), multiple=True, help="only this; may be repeated")
@click.option("--alone", is_flag=True, help="ours without the peers")
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict[str, Any],
    minutes: float,
    finetune: bool,
    workers: int,
    names: Sequence[str],
    alone: bool,
) -> None:
    import data

    print_machine()
    for name in ("digits",) if quick else names or DATA_SETS:
        split = data.prepared(data_dir, name)
        setting = Setting(split.train, split.val, data.CROP_SIZES[name], workers=workers, device=device, ours=ours)
        if finetune:
            setting = replace(setting, weights=backbone(data_dir, name, quick))
        if quick:
            setting = replace(setting, train_dir=data.with_count(split.train, QUICK_IMAGES, data_dir))
        contestants = ("ours",) if alone else CONTESTANTS
        compare(
            name, setting, split.test, QUICK_MINUTES if quick else minutes, 2 if quick else repetitions, contestants
        )


if __name__ == "__main__":
    main()
