"""ResNet-50 on a GPU, in at most eight minutes: ours, and what timm's benchmark.py measures, on the same card.

In bf16, channels last and compiled, at 224 pixels, in turn: a training step and a forward pass on a batch in memory;
whole epochs from a folder of JPEGs, which this script draws; and scoring that folder to a finished Parquet file. What
is compiled takes minutes the first time and is kept. On a CPU nothing is compiled, and the numbers say little.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from alternate import Job, Measurement, alternate, memory, print_machine, print_table, ratio, spread, values_of
from clients import SIZE, picture
from command import common
from setting import Setting
from steps import QUICK_SECONDS, SECONDS
from train_speed import CLASSES, FIRST, LATER, STEP, WHOLE, epochs_job, step_job

PICTURES = 512  # that differ; the others are copies
IN_MEMORY = {  # ours and timm's
    "training step": ("ours:whole_step", "timm_recipe:timm_step"),
    "forward pass": ("ours:forward_pass", "timm_recipe:timm_forward"),
}
EPOCHS, SCORING = "ours, epochs", "ours, scoring"


@dataclass(frozen=True)
class Size:
    """How much is trained and scored."""

    architecture: str = "resnet50"
    crop_size: int = 224
    batch_size: int = 256
    images: int = 12_800
    seconds: float = SECONDS


QUICK = Size("resnet18", 64, 16, 64, QUICK_SECONDS)


def draw_pictures(data_dir: Path, count: int) -> Path:
    """Class folders of JPEGs of 640 x 480 pixels, the same ones every time, kept from one call to the next."""
    from mlflow_resnet.io.atomic import new_directory

    folder = data_dir / "drawn" / str(count)
    if not folder.exists():
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool, new_directory(folder) as new:
            for number, content in enumerate(pool.map(picture, range(count), chunksize=8)):
                place = new / f"class{number % CLASSES}"
                place.mkdir(exist_ok=True)
                (place / f"{number:04d}.jpg").write_bytes(content)
    return folder


def scoring_job(setting: Setting, repetition: int) -> Measurement:
    """Speed from a folder of JPEGs to a finished Parquet file, with random weights."""
    from ours import untrained_predictor
    from scorers import scored_by

    paths = sorted(setting.train_dir.rglob("*.jpg"))
    score = scored_by(untrained_predictor(setting, CLASSES), setting.batch_size)
    score(paths[: 2 * setting.batch_size])
    began = perf_counter()
    score(paths)
    return {WHOLE: len(paths) / (perf_counter() - began)}


def list_jobs(setting: Setting, seconds: float) -> dict[str, Job]:
    """Ours and timm's for each quantity that both have."""
    jobs: dict[str, Job] = {}
    for quantity, measures in IN_MEMORY.items():
        for contestant, measure in zip(("ours", "timm"), measures, strict=True):
            jobs[f"{contestant}, {quantity}"] = partial(step_job, measure, setting, seconds)
    return jobs | {EPOCHS: partial(epochs_job, "ours", setting), SCORING: partial(scoring_job, setting)}


def repeat_in_time(jobs: dict[str, Job], repetitions: int, minutes: float) -> dict[str, list[Measurement]]:
    """As many alternations as fit into the time, by how long the last one took; at least one."""
    results: dict[str, list[Measurement]] = {name: [] for name in jobs}
    began = perf_counter()
    for done in range(repetitions):
        last = perf_counter()
        for name, found in alternate(jobs, 1).items():
            results[name] += found
        if perf_counter() - began + (perf_counter() - last) > 60 * minutes:
            if done + 1 < repetitions:
                print(f"{done + 1} of {repetitions} alternations fit into {minutes:g} minutes")
            break
    return results


def print_results(title: str, results: dict[str, list[Measurement]]) -> None:
    rows = []
    for name, found in results.items():
        contestant, _, quantity = name.partition(", ")
        ours = values_of(results[f"ours, {quantity}"], STEP)
        to_it = ratio(ours, values_of(found, STEP)) if contestant != "ours" else ""
        speeds = values_of(found, STEP) or values_of(found, LATER) or values_of(found, WHOLE)
        rows.append([name, spread(speeds, 0), to_it, memory(found)])
    print_table(title, ["", "images/s", "ours to it", "peak MiB"], rows)
    print(f"the first epoch, which fills the cache: {spread(values_of(results[EPOCHS], FIRST), 0)} images/s")


@click.command(help=__doc__)
@common
@click.option(
    "--minutes", default=8.0, show_default=True, help="no other alternation begins that would not end in time"
)
@click.option("--batch-size", default=0, help="for cards with less memory; 0: 256")
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict[str, Any],
    minutes: float,
    batch_size: int,
) -> None:
    import data

    print_machine()
    print_card(device)
    size = QUICK if quick else Size()
    size = replace(size, batch_size=batch_size or size.batch_size)
    drawn = draw_pictures(data_dir, CLASSES if quick else PICTURES)
    setting = Setting(
        train_dir=data.with_count(drawn, size.images, data_dir),
        val_dir=data.with_count(drawn, CLASSES, data_dir),
        crop_size=size.crop_size,
        architecture=size.architecture,
        batch_size=size.batch_size,
        device=device,
        ours={"compile": device == "cuda", "precision": "bf16"} | ours,
    )
    results = repeat_in_time(list_jobs(setting, size.seconds), 1 if quick else repetitions, minutes)
    pictures = f"{size.images} JPEGs of {SIZE[0]} x {SIZE[1]}"
    print_results(f"{size.architecture}@{size.crop_size}, batch size {size.batch_size}, {pictures}", results)


def print_card(device: str) -> None:
    import torch

    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        print(f"GPU: {card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")


if __name__ == "__main__":
    main()
