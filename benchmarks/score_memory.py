"""Peak memory of `score` on few and on many images, which does not grow with their number, and images per second.

resnet18 at 32 pixels with random weights, so that many images take minutes: what could grow is what is kept of each of
them, and that does not depend on the network. The list repeats the path of one picture; the directory has a hard link
to it, or to a copy of it, for each image.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from alternate import MEMORY, Measurement, alternate, growth, print_machine, print_table, spread, values_of
from command import common

COUNTS, QUICK_COUNTS = (1_000, 100_000), (100, 1_000)  # images
KINDS = ("list", "directory")
LINKS = 10_000  # to one file; file systems have a limit
SPEED = "images/s"


def scoring_job(model: Path, image_dir: Path, count: int, device: str, repetition: int) -> Measurement:
    """Images per second of a whole call, loading of the model included; `alternate` adds the memory."""
    from mlflow_resnet.options import ScoreOptions
    from mlflow_resnet.verbs.score import score

    with tempfile.TemporaryDirectory() as folder:
        options = ScoreOptions(
            model_uri=str(model), image_dir=str(image_dir), output=f"{folder}/scored.parquet", device=device
        )
        started = perf_counter()
        assert score(options).rows == count
    return {SPEED: count / (perf_counter() - started)}


def saved_model(path: Path) -> Path:
    import mlflow_resnet

    preprocessing = mlflow_resnet.Preprocessing(resize_size=32, crop_size=32)
    mlflow_resnet.save_model(mlflow_resnet.new_classifier("resnet18", ("a", "b"), preprocessing), path)
    return path


def repeated(picture: Path, count: int, kind: str, folder: Path) -> Path:
    """A list or a directory that has `picture` so many times."""
    target = folder / f"{count}.txt" if kind == "list" else folder / str(count)
    if kind == "list":
        target.write_text(f"{picture}\n" * count)
        return target
    target.mkdir()
    for number in range(count):
        path = target / f"{number}{picture.suffix}"
        if number % LINKS == 0:
            picture = Path(shutil.copy(picture, path))
        else:
            os.link(picture, path)
    return target


def print_results(results: dict[str, list[Measurement]], counts: Sequence[int]) -> None:
    rows = []
    for kind in KINDS:
        peaks = [values_of(results[job_name(kind, count)], MEMORY) for count in counts]
        speed = spread(values_of(results[job_name(kind, counts[-1])], SPEED))
        rows.append([kind, *(spread(peak, 0) for peak in peaks), growth(peaks), speed])
    header = ["images in a", *(f"peak MiB, {count} images" for count in counts), "growth", f"{SPEED}, {counts[-1]}"]
    print_table("score, resnet18@32", header, rows)


def job_name(kind: str, count: int) -> str:
    return f"ours, {kind} of {count} images"


@click.command(help=__doc__)
@common
def main(data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any]) -> None:
    from PIL import Image

    print_machine()
    counts = QUICK_COUNTS if quick else COUNTS
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir) as name:
        folder = Path(name).resolve()
        model, picture = saved_model(folder / "model"), folder / "picture.jpg"
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(picture)
        jobs = {
            job_name(kind, count): partial(scoring_job, model, repeated(picture, count, kind, folder), count, device)
            for kind in KINDS
            for count in counts
        }
        print_results(alternate(jobs, 1 if quick else repetitions), counts)


if __name__ == "__main__":
    main()
