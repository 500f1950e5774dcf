"""Images per second from a folder of JPEGs to their classes: ours, and what others do with the same weights.

Ours is timed to the finished Parquet file, the others to the labels in memory; models are in memory before. The peers
with loading workers run with 0 and with 2 of them, and the better counts. `agree` is the share of images that get
the class that the DataLoader's network in fp32 gives them. int8 is calibrated on half of the photographs. `limit` is
ours' decoding alone and its network alone; on a CPU both share the cores, so no engine gets beyond
1 / (1 / decode + 1 / forward).
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from multiprocessing import set_start_method
from pathlib import Path
from statistics import median
from time import perf_counter

import click
import numpy as np
from alternate import (
    MEMORY,
    Measurement,
    alternate,
    in_fresh_process,
    memory,
    print_machine,
    print_table,
    ratio,
    spread,
    values_of,
)
from command import common
from decode import SIZES, sized_photos

ARCHITECTURES = ("resnet18", "resnet50")
COUNTS = {"0.3 megapixels": 320, "12 megapixels": 64}
WITH_WORKERS = ("DataLoader", "transformers", "timm")
PEERS = ("pyfunc loop", *WITH_WORKERS)
OURS = ("ours", "ours fp32", "ours, OpenVINO bf16", "ours, OpenVINO int8")
SPEED, AGREE = "images/s", "agree"
EPOCHS, QUICK_EPOCHS = 4, 1  # of the networks that score


def trained_model(architecture: str, photos: Path, data_dir: Path, epochs: int) -> Path:
    """The data folder of a model trained on the photographs, kept from one call to the next."""
    folder = data_dir / "scorers" / f"{architecture}-{epochs}"
    if not folder.exists():
        in_fresh_process(partial(train_model, architecture, photos, folder, epochs))
    if not (folder / "int8").exists():
        in_fresh_process(partial(export_int8, folder, sorted(photos.rglob("*.jpg"))[::2]))
    return folder


def export_int8(model: Path, photos: list[Path], repetition: int) -> Measurement:
    from scorers import write_int8

    write_int8(model, photos)
    return {}


def train_model(architecture: str, photos: Path, folder: Path, epochs: int, repetition: int) -> Measurement:
    import mlflow

    from mlflow_resnet.model.storage import DATA_SUBPATH
    from mlflow_resnet.options import TrainOptions
    from mlflow_resnet.verbs.train import train

    with tempfile.TemporaryDirectory() as place:
        mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
        mlflow.create_experiment("scorers", f"{place}/artifacts")
        mlflow.set_experiment("scorers")
        options = TrainOptions(
            train_dir=str(photos),
            val_dir=str(photos),
            architecture=architecture,
            pretrained=False,
            epochs=epochs,
            audit=False,
        )
        found = train(options)
        path = Path(mlflow.artifacts.download_artifacts(found.model_uri, dst_path=place)) / DATA_SUBPATH
        shutil.copytree(path, folder)
    return {}


def photos_of(size: str, photos: Path, data_dir: Path, count: int) -> list[Path]:
    """JPEGs of that size as files, kept from one call to the next."""
    folder = data_dir / "sized" / f"{size.replace(' ', '-')}-{count}"
    if not folder.exists():
        folder.mkdir(parents=True)
        for number, content in enumerate(sized_photos(photos, SIZES[size], count)):
            (folder / f"{number:04d}.jpg").write_bytes(content)
    return sorted(folder.iterdir())


def job(name: str, workers: int, model: Path, paths: list[Path], labels: Path, repetition: int) -> Measurement:
    """Speed, and the share of the labels in the file `labels`, which the first to come writes, that are the same."""
    from scorers import prepare

    set_start_method("fork", force=True)  # Linux's, which this process has not, so loading workers start at once
    score = prepare(name, model, workers)
    score(paths[:4])
    started = perf_counter()
    found = score(paths)
    measured = {SPEED: len(paths) / (perf_counter() - started)}
    if name.startswith("limit"):
        return measured
    if not labels.exists():
        np.save(labels, found)
    return measured | {AGREE: float(np.mean(found == np.load(labels)))}


def jobs(model: Path, paths: list[Path], labels: Path) -> dict[str, partial[Measurement]]:
    """The DataLoader first: its labels are the reference."""
    contestants = {f"{name}, {workers} workers": (name, workers) for name in WITH_WORKERS for workers in (0, 2)}
    contestants |= {name: (name, 0) for name in ("pyfunc loop", *OURS, "limit, decode", "limit, forward")}
    return {key: partial(job, name, workers, model, paths, labels) for key, (name, workers) in contestants.items()}


def print_results(title: str, results: dict[str, list[Measurement]]) -> None:
    ours = values_of(results["ours"], SPEED)
    rows = []
    for name, measurements in results.items():
        speeds, agree = (values_of(measurements, quantity) for quantity in (SPEED, AGREE))
        share = f"{100 * median(agree):.1f} %" if agree else ""
        rows.append([name, spread(speeds), ratio(ours, speeds), share, memory(measurements)])
    print_table(title, ["images/s", SPEED, "ours to it", AGREE, MEMORY], rows)
    best = max(
        (name for name in results if name.startswith(PEERS)),
        key=lambda name: median(values_of(results[name], SPEED) or [0]),
    )
    decode, forward = (median(values_of(results[f"limit, {name}"], SPEED) or [0]) for name in ("decode", "forward"))
    theirs = values_of(results[best], SPEED)
    for name in OURS:
        print(f"{name} to the best peer ({best}): {ratio(values_of(results[name], SPEED), theirs)}")
    if ours and decode and forward:
        print(f"ours to the slower of decode and forward alone: {median(ours) / min(decode, forward):.2f}")
        print(f"ours to both on the same cores: {median(ours) * (1 / decode + 1 / forward):.2f}")


@click.command(help=__doc__)
@common
@click.option("--photos", type=click.Path(path_type=Path, exists=True), help="class folders of your own photographs")
@click.option("--architecture", "architectures", multiple=True, default=ARCHITECTURES, show_default=True)
def main(
    data_dir: Path,
    quick: bool,
    repetitions: int,
    device: str,
    ours: dict,
    photos: Path | None,
    architectures: tuple[str, ...],
) -> None:
    import data

    print_machine()
    folder = data.photos(data_dir, photos)
    for architecture in architectures[:1] if quick else architectures:
        model = trained_model(architecture, folder, data_dir, QUICK_EPOCHS if quick else EPOCHS)
        for size, count in COUNTS.items():
            paths = photos_of(size, folder, data_dir, count)[: 8 if quick else None]
            with tempfile.TemporaryDirectory() as place:
                results = alternate(jobs(model, paths, Path(place) / "labels.npy"), 1 if quick else repetitions)
            print_results(f"{architecture}, {len(paths)} JPEGs of {size}, crop 224", results)


if __name__ == "__main__":
    main()
