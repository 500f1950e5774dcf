"""Images per second of whole training epochs, data loading included: ours, torchvision's reference script, timm.

All train the same network on the same files at the same crop and batch size. `first epoch` has workers to start and
caches to fill; `later epochs` do not; `whole call` counts everything from the call on, set-up too. `limit` is forward
and backward alone, on a batch in memory, with ours' settings. On a GPU: ours against timm's benchmark.py, see --device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
from alternate import Job, Measurement, alternate, memory, print_machine, print_table, ratio, spread, values_of
from command import common
from setting import Setting, fit, loaded
from steps import QUICK_SECONDS, SECONDS

WORKERS = (0, 2)
CLASSES = 10  # of the head of a step alone
FIRST, LATER, WHOLE, STEP = "first epoch", "later epochs", "whole call", "step alone"
OURS_STEP = "ours, step"
HEADER = ["images/s", FIRST, LATER, WHOLE, "ours to it", "peak MiB"]


@dataclass(frozen=True)
class Case:
    """What is trained, and on how many images an epoch."""

    architecture: str
    crop_size: int
    data_set: str
    images: int
    batch_size: int = 32

    @property
    def name(self) -> str:
        return f"{self.architecture}@{self.crop_size}-{self.data_set}"


CPU_CASES = (
    Case("resnet18", 224, "photos", 320),
    Case("resnet50", 224, "photos", 96),
    Case("resnet18", 96, "solar", 960),
    Case("resnet18", 64, "mnist", 1_920),
    Case("resnet18", 32, "digits", 5_760),
)
GPU_CASES = (Case("resnet50", 224, "photos", 19_200, batch_size=256),)


def epochs_job(contestant: str, setting: Setting, repetition: int) -> Measurement:
    """Speeds of one training in images per second."""
    trained = fit(contestant, replace(setting, seed=repetition))
    first, *later = (trained.epoch_images / seconds for seconds in trained.epoch_seconds)
    whole = trained.epoch_images * len(trained.epoch_seconds) / trained.total_seconds
    return {FIRST: first, LATER: median(later), WHOLE: whole}


def step_job(step: str, setting: Setting, seconds: float, repetition: int) -> Measurement:
    """Speed of a step on a batch in memory; `step` is a function of (setting, classes, seconds)."""
    return {STEP: loaded(step)(setting, CLASSES, seconds)}


def jobs_on_cpu(setting: Setting, val_dir: Path, seconds: float) -> dict[str, Job]:
    """Ours, its limit, and each peer with each number of workers."""
    jobs: dict[str, Job] = {"ours": partial(epochs_job, "ours", replace(setting, val_dir=val_dir))}
    for peer in ("torchvision", "timm"):
        for workers in WORKERS:
            jobs[f"{peer}, {workers} workers"] = partial(epochs_job, peer, replace(setting, workers=workers))
    jobs["limit"] = partial(step_job, "ours:limit", replace(setting, val_dir=val_dir), seconds)
    return jobs


def jobs_on_gpu(setting: Setting, val_dir: Path, seconds: float) -> dict[str, Job]:
    """Ours in whole epochs and as a step, and the step of timm's benchmark.py in bf16, channels last, compiled."""
    ours = replace(setting, val_dir=val_dir)
    return {
        "ours": partial(epochs_job, "ours", ours),
        OURS_STEP: partial(step_job, "ours:whole_step", ours, seconds),
        "timm, step": partial(step_job, "timm_recipe:timm_step", setting, seconds),
    }


def chosen_cases(device: str, names: Sequence[str], quick: bool) -> list[Case]:
    """The cases of those names, or all; for a quick run with few images, and without names only the last."""
    known = CPU_CASES if device == "cpu" else GPU_CASES
    unknown = set(names) - {case.name for case in known}
    if unknown:
        raise click.BadParameter(f"{unknown.pop()} is none of {', '.join(case.name for case in known)}")
    cases = [case for case in known if case.name in names] or list(known)
    if not quick:
        return cases
    return [replace(case, images=64, batch_size=16) for case in (cases if names else cases[-1:])]


def prepared(case: Case, data_dir: Path, own_photos: Path | None) -> tuple[Path, Path]:
    """Training images of a case, and one image of each class, because ours always validates."""
    import data

    of_photos = case.data_set == "photos"
    folder = data.photos(data_dir, own_photos) if of_photos else data.prepared(data_dir, case.data_set).train
    classes = sum(path.is_dir() for path in folder.iterdir())
    return data.with_count(folder, case.images, data_dir), data.with_count(folder, classes, data_dir)


def print_results(case: Case, results: dict[str, list[Measurement]]) -> None:
    """A row per contestant; then ours to the better of each peer's numbers of workers."""
    rows = []
    for name, measurements in results.items():
        speed = spread(values_of(measurements, LATER) or values_of(measurements, STEP))
        first, whole = (spread(values_of(measurements, column)) for column in (FIRST, WHOLE))
        rows.append([name, first, speed, whole, ours_to(name, results), memory(measurements)])
    print_table(f"{case.name}: {case.images} images an epoch, batch size {case.batch_size}", HEADER, rows)
    for peer in ("torchvision", "timm"):
        numbers = [name for name in results if name.startswith(f"{peer}, ") and values_of(results[name], LATER)]
        if numbers:
            better = max(numbers, key=lambda name: median(values_of(results[name], LATER)))
            print(f"ours to the better {peer} ({better}): {ours_to(better, results)}")


def ours_to(name: str, results: dict[str, list[Measurement]]) -> str:
    """Ours' later epochs to another's or to the limit; on a GPU ours' step to another's step."""
    if OURS_STEP in results and name != "ours":
        return ratio(values_of(results[OURS_STEP], STEP), values_of(results[name], STEP))
    other = values_of(results[name], LATER) or values_of(results[name], STEP)
    return ratio(values_of(results["ours"], LATER), other)


@click.command(help=__doc__)
@common
@click.option("--photos", type=click.Path(path_type=Path, exists=True), help="class folders of your own photographs")
@click.option("--case", "names", multiple=True, help="only this case, such as resnet18@96-solar; may be repeated")
@click.option("--epochs", default=2, show_default=True, type=click.IntRange(2), help="of each training")
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict[str, Any],
    photos: Path | None,
    names: Sequence[str],
    epochs: int,
) -> None:
    print_machine()
    for case in chosen_cases(device, names, quick):
        train_dir, val_dir = prepared(case, data_dir, photos)
        setting = Setting(
            train_dir=train_dir,
            val_dir=None,
            crop_size=case.crop_size,
            architecture=case.architecture,
            batch_size=case.batch_size,
            epochs=epochs,
            device=device,
            ours=ours,
        )
        jobs = jobs_on_cpu if device == "cpu" else jobs_on_gpu
        seconds = QUICK_SECONDS if quick else SECONDS
        print_results(case, alternate(jobs(setting, val_dir, seconds), 1 if quick else repetitions))


if __name__ == "__main__":
    main()
