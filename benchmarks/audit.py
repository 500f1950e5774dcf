"""Seconds and peak memory of `mlflow-resnet audit` on few and on many images, and of the same audit once more.

The images are crops of 256 x 256 pixels from photographs, as JPEGs, in ten class folders. The audit looks for
everything, near-duplicates too, and logs its report to a run. Repeated, it reads only files that have changed.
"""

from __future__ import annotations

import os
import random
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from alternate import MEMORY, Measurement, alternate, print_machine, print_table, spread, values_of
from command import common
from PIL import Image

from mlflow_resnet.io.atomic import new_directory

CLASSES = 10
EDGE = 256  # pixels
QUICK_COUNTS = (100, 200)
FIRST, AGAIN = "seconds", "seconds, once more"


def write_crops(photos: Path, output: Path, count: int) -> None:
    """Writes `count` different crops, the same ones every time."""
    paths = sorted(photos.rglob("*.jpg"))
    with new_directory(output) as new:
        for label in range(CLASSES):
            (new / str(label)).mkdir(parents=True)
        for number, path in enumerate(paths):
            with Image.open(path) as image:
                picture = image.convert("RGB")
            for index in range(number, count, len(paths)):
                crop_of(picture, index).save(new / str(index % CLASSES) / f"{index:07d}.jpg", quality=85)


def crop_of(picture: Image.Image, seed: int) -> Image.Image:
    """A square of 40 to 100 % of the shorter edge, at random."""
    draw = random.Random(seed)
    side = draw.uniform(0.4, 1) * min(picture.size)
    left, top = draw.uniform(0, picture.width - side), draw.uniform(0, picture.height - side)
    box = (left, top, left + side, top + side)
    return picture.resize((EDGE, EDGE), Image.Resampling.BILINEAR, box=box)


def audit_job(images: Path, repetition: int) -> Measurement:
    """Audits twice, with a cache and a tracking store of their own."""
    from mlflow_resnet.options import AuditOptions
    from mlflow_resnet.verbs.audit import audit

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.chdir(folder)  # where the artifacts go
        seconds = []
        for _ in range(2):
            started = perf_counter()
            audit(AuditOptions(train_dir=str(images)))
            seconds.append(perf_counter() - started)
    return dict(zip((FIRST, AGAIN), seconds, strict=True))


@click.command(help=__doc__)
@common
@click.option("--images", default=100_000, show_default=True, help="of the larger directory; the smaller has a tenth")
@click.option("--photos", type=click.Path(path_type=Path, exists=True), help="class folders of your own photographs")
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict[str, Any],
    images: int,
    photos: Path | None,
) -> None:
    import data

    print_machine()
    source = data.photos(data_dir, photos)
    jobs = {}
    for count in QUICK_COUNTS if quick else (images // 10, images):
        folder = (data_dir / "crops" / str(count)).absolute()
        if not folder.exists():
            write_crops(source, folder, count)
        jobs[f"{count} images"] = partial(audit_job, folder)
    rows = []
    for name, measurements in alternate(jobs, 1 if quick else repetitions).items():
        columns = [spread(values_of(measurements, column), 0) for column in (FIRST, AGAIN, MEMORY)]
        rows.append([name, *columns])
    print_table(f"audit of {EDGE} x {EDGE} JPEGs", ["", FIRST, AGAIN, MEMORY], rows)


if __name__ == "__main__":
    main()
