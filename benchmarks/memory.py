"""Peak memory of ours on few and on many images, for each --cache: with "none" it does not grow with the data.

One epoch of resnet18 at 96 pixels on solar cells, which are repeated as other files. "disk" maps its file into memory,
so the pages that were read count as resident, but the system may drop them at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from alternate import MEMORY, Measurement, alternate, growth, print_machine, print_table, spread, values_of
from command import common
from setting import Setting, fit

CACHES = ("none", "disk", "ram")
COUNTS, QUICK_COUNTS = (1_000, 4_000), (32, 64)  # images
CROP_SIZE = 96  # pixels


def training_job(setting: Setting, repetition: int) -> Measurement:
    """Seconds of a training; `alternate` adds the memory."""
    return {"seconds": fit("ours", replace(setting, seed=repetition)).total_seconds}


def print_results(results: dict[str, list[Measurement]], counts: Sequence[int]) -> None:
    rows = []
    for cache in CACHES:
        peaks = [values_of(results[job_name(cache, count)], MEMORY) for count in counts]
        rows.append([cache, *(spread(peak, 0) for peak in peaks), growth(peaks)])
    header = ["cache", *(f"peak MiB, {count} images" for count in counts), "growth"]
    print_table(f"one epoch of resnet18@{CROP_SIZE}, batch size 32", header, rows)


def job_name(cache: str, count: int) -> str:
    return f"ours, cache {cache}, {count} images"


@click.command(help=__doc__)
@common
def main(data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any]) -> None:
    import data

    print_machine()
    counts = QUICK_COUNTS if quick else COUNTS
    solar = data.prepared(data_dir, "solar").train
    few = data.with_count(solar, 2, data_dir)  # to validate on, as ours always does
    jobs = {}
    for count in counts:
        train_dir = data.with_count(solar, count, data_dir)
        setting = Setting(train_dir, few, CROP_SIZE, epochs=1, batch_size=32, device=device)
        for cache in CACHES:
            chosen = ours | {"cache": cache, "cache_dir": str(data_dir / "cache")}
            jobs[job_name(cache, count)] = partial(training_job, replace(setting, ours=chosen))
    print_results(alternate(jobs, 1 if quick else repetitions), counts)


if __name__ == "__main__":
    main()
