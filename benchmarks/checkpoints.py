"""What checkpoints cost at their defaults: the same trainings with and without, and the time spent writing them.

The share is that of the time from the first step to the end. The smallest network is written often, because that takes
little time; a checkpoint of the default one has a gigabyte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from alternate import Measurement, alternate, print_machine, print_table, ratio, spread, values_of
from command import common
from setting import Setting

SECONDS, WRITING, TIMES, SHARE = "seconds", "seconds writing", "checkpoints", "share of the time, %"
AIM = 2  # percent


def plain_job(setting: Setting, repetition: int) -> Measurement:
    import ours

    seconds, _ = ours.fit_saving(replace(setting, seed=repetition), None)
    return {SECONDS: seconds}


def saving_job(setting: Setting, data_dir: Path, repetition: int) -> Measurement:
    """Checkpoints go to the disk of the data, for /tmp may be memory."""
    import ours

    with tempfile.TemporaryDirectory(dir=data_dir, prefix="checkpoints-") as folder:
        seconds, writing = ours.fit_saving(replace(setting, seed=repetition), Path(folder))
    return {SECONDS: seconds, WRITING: sum(writing), TIMES: len(writing), SHARE: 100 * sum(writing) / seconds}


def settings(data_dir: Path, quick: bool, device: str, ours: dict[str, Any]) -> dict[str, Setting]:
    """Each takes about as long, on two cores, as the 5 minutes between checkpoints."""
    import data

    split = data.prepared(data_dir, "digits" if quick else "solar")
    some = partial(data.with_count, split.train, data_dir=data_dir)
    if quick:
        return {"resnet18@32": Setting(some(64), some(32), 32, epochs=2, batch_size=32, device=device, ours=ours)}
    small = Setting(split.train, split.val, 96, epochs=20, batch_size=32, device=device, ours=ours)
    large = replace(small, train_dir=some(320), val_dir=some(32), crop_size=224, epochs=2)
    return {"resnet18@96": small, "resnext101_32x8d@224": replace(large, architecture="resnext101_32x8d")}


def print_results(results: Mapping[str, list[Measurement]], names: list[str]) -> None:
    rows = []
    for name in names:
        without, found = results[f"ours, {name}, without"], results[f"ours, {name}, with"]
        before, after = values_of(without, SECONDS), values_of(found, SECONDS)
        written = [spread(values_of(found, TIMES), 0), spread(values_of(found, SHARE), 2)]
        rows.append([name, spread(before), spread(after), ratio(after, before), *written])
    header = ["training", "seconds without", "seconds with", "ratio", TIMES, SHARE]
    print_table(f"checkpoints at their defaults; aim: under {AIM} % of the time", header, rows)


@click.command(help=__doc__)
@common
def main(data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any]) -> None:
    print_machine()
    jobs = {}
    trainings = settings(data_dir, quick, device, ours)
    for name, setting in trainings.items():
        jobs[f"ours, {name}, without"] = partial(plain_job, setting)
        jobs[f"ours, {name}, with"] = partial(saving_job, setting, data_dir)
    print_results(alternate(jobs, 1 if quick else repetitions), list(trainings))


if __name__ == "__main__":
    main()
