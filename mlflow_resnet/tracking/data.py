"""Labeled directories, listed and decoded once, as dataset inputs of a run. Unreadable images are all reported here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tqdm import tqdm

from mlflow_resnet.console import is_first, say
from mlflow_resnet.errors import listed, printable
from mlflow_resnet.images.directories import LabeledDirectory, list_labeled
from mlflow_resnet.images.parallel import default_threads
from mlflow_resnet.images.scan import Scan, apply_policy, digest_of, scan
from mlflow_resnet.images.sources import local_copy
from mlflow_resnet.images.split import split_labeled
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset, source_of
from mlflow_resnet.training import processes


@contextlib.contextmanager
def scanned_training_data(options: TrainOptions) -> Iterator[tuple[ImageDirectoryDataset, ImageDirectoryDataset]]:
    """Training and validation images, listed and decoded once; unreadable ones are all reported before epoch 1."""
    with scanned(options.train_dir, options.on_bad_image, options.num_workers, "train") as (directory, hashes):
        if options.val_dir:
            train_set = dataset_of(directory, hashes, options.train_dir)
            with scanned_dataset(options.val_dir, options.on_bad_image, options.num_workers, "validation") as val_set:
                yield train_set, val_set
        else:
            parts = split_labeled(directory, 1 - options.val_fraction, options.random_seed)
            train_set, val_set = (
                dataset_of(part, hashes, options.train_dir, suffix)
                for part, suffix in zip(parts, (" (training part)", " (validation part)"), strict=True)
            )
            yield train_set, val_set


@contextlib.contextmanager
def scanned_dataset(image_dir: str, on_bad_image: str, num_workers: int, role: str) -> Iterator[ImageDirectoryDataset]:
    """A labeled directory, listed and decoded once, as a dataset."""
    with scanned(image_dir, on_bad_image, num_workers, role) as (directory, hashes):
        yield dataset_of(directory, hashes, image_dir)


@contextlib.contextmanager
def scanned(
    image_dir: str, on_bad_image: str, num_workers: int, role: str
) -> Iterator[tuple[LabeledDirectory, dict[str, str]]]:
    """A labeled directory without what the policy leaves out, and the sha256 of each image."""
    with local_copy(image_dir) as path:
        directory = list_labeled(path)
        found = scan_together(directory, num_workers or default_threads(), f"checking {role} images")
        kept = apply_policy(directory, found, on_bad_image)
        say(
            f"{role}: {len(kept)} images of {len(kept.classes)} classes in {image_dir}",
            str(kept.ignored),
            left_out(found.bad),
        )
        yield kept, found.hashes


def scan_together(directory: LabeledDirectory, threads: int, title: str) -> Scan:
    """Scans the directory; of several processes that train together, each scans a part and all get the whole."""
    own = directory.subset(processes.own_share(len(directory)))
    hidden = None if is_first() else True  # None: unless on a terminal
    with tqdm(total=len(own), desc=title, unit="img", leave=False, disable=hidden) as bar:
        parts = processes.gathered(scan(own, threads, bar.update))
    bad = {name: reason for part in parts for name, reason in part.bad.items()}
    hashes = {name: sha256 for part in parts for name, sha256 in part.hashes.items()}
    return Scan(hashes, {name: bad[name] for name in directory.names if name in bad})


def left_out(bad: dict[str, str]) -> str:
    return f"left out {len(bad)} unreadable images: {listed(map(printable, bad))}" if bad else ""


def dataset_of(
    directory: LabeledDirectory, hashes: dict[str, str], uri: str, suffix: str = ""
) -> ImageDirectoryDataset:
    """A scanned directory as a dataset called after the last part of `uri`, the path or URI that the user gave."""
    name = printable(os.path.basename(os.path.abspath(uri)))
    return ImageDirectoryDataset(directory, source_of(uri), name + suffix, digest_of(directory, hashes), hashes)
