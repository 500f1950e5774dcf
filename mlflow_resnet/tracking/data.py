"""Labeled directories, listed and decoded once, as dataset inputs of a run. Unreadable images are all reported here."""

from __future__ import annotations

import os

from tqdm import tqdm

from mlflow_resnet.errors import listed, printable
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.scan import Scan, apply_policy, digest_of, scan
from mlflow_resnet.images.sources import labeled_directory
from mlflow_resnet.images.splitting.split import split_labeled
from mlflow_resnet.io.console import is_first, say
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.options.evaluate import EvaluateOptions
from mlflow_resnet.options.export import ExportOptions
from mlflow_resnet.options.promote import PromoteOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset, source_of
from mlflow_resnet.training.distributed import processes

ScanOptions = EvaluateOptions | ExportOptions | PromoteOptions | TrainOptions


def scanned_training_data(options: TrainOptions) -> tuple[ImageDirectoryDataset, ImageDirectoryDataset]:
    """Training and validation images, listed and decoded once; unreadable ones are all reported before epoch 1."""
    directory, found = scanned(options.train_dir, options, "train")
    if options.val_dir:
        val_set = scanned_dataset(options.val_dir, options, "validation")
        return dataset_of(directory, found), val_set
    pixels = {name: facts.pixels for name, facts in found.facts.items()}
    train, val = split_labeled(directory, 1 - options.val_fraction, options.random_seed, pixels)
    return dataset_of(train, found, "-training"), dataset_of(val, found, "-validation")


def scanned_dataset(image_dir: str, options: ScanOptions, role: str) -> ImageDirectoryDataset:
    """A labeled directory, listed and decoded once, as a dataset."""
    return dataset_of(*scanned(image_dir, options, role))


def checked(data: ImageDirectoryDataset, on_bad_image: str, num_workers: int) -> ImageDirectoryDataset:
    """A dataset without the images that the policy leaves out. It is scanned if that was not done yet."""
    threads = num_workers or default_threads()
    found = data.found if data.found.facts else scan_together(data.directory, threads, f"checking {data.name}")
    directory = apply_policy(data.directory, found, on_bad_image)
    return ImageDirectoryDataset(directory, data.source, data.name, data.digest, found)


def scanned(image_dir: str, options: ScanOptions, role: str) -> tuple[LabeledDirectory, Scan]:
    """A labeled directory without what the policy leaves out, and what was found out about all of it."""
    directory = listed_here(image_dir, role, options.follow_links)
    found = scan_together(directory, options.num_workers or default_threads(), f"checking {role} images")
    kept = apply_policy(directory, found, options.on_bad_image)
    say(
        f"{role}: {len(kept)} images of {len(kept.classes)} classes in {image_dir}",
        str(kept.ignored),
        kept.advice,
        left_out(found.bad),
    )
    return kept, found


def listed_here(image_dir: str, role: str, follow_links: bool) -> LabeledDirectory:
    """The directory, copied from S3 if it is there."""
    with progress(None, f"copying {role} images", is_remote(image_dir)) as bar:
        return processes.first_alone(lambda: labeled_directory(image_dir, bar.update, follow_links))


def scan_together(directory: LabeledDirectory, threads: int, title: str) -> Scan:
    """Scans the directory; of several processes that train together, each scans a part and all get the whole."""
    own = directory.subset(processes.own_share(len(directory)))
    with progress(len(own), title) as bar:
        parts = processes.gathered(scan(own, threads, bar.update))
    facts = {name: found for part in parts for name, found in part.facts.items()}
    return Scan({name: facts[name] for name in directory.names})


def progress(total: int | None, title: str, wanted: bool = True) -> tqdm:
    """A bar that is shown on a terminal, by the first of several processes."""
    return tqdm(total=total, desc=title, unit="img", leave=False, disable=None if wanted and is_first() else True)


def left_out(bad: dict[str, str]) -> str:
    return f"left out {len(bad)} unreadable images: {listed(map(printable, bad))}" if bad else ""


def dataset_of(directory: LabeledDirectory, found: Scan, suffix: str = "") -> ImageDirectoryDataset:
    """A scanned directory as a dataset called after the last part of the path or URI that the user gave."""
    uri = directory.source
    name = printable(os.path.basename(os.path.abspath(uri)))
    return ImageDirectoryDataset(directory, source_of(uri), name + suffix, digest_of(directory, found.hashes), found)
