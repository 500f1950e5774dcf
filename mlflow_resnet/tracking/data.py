"""Lists and decodes labeled directories once, reports what cannot be read, and makes them dataset inputs of a run."""

from __future__ import annotations

import os

import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.evaluation_dataset import EvaluationDataset
from tqdm import tqdm

from mlflow_resnet.errors import InvalidDatasetError, join_names, printable
from mlflow_resnet.images.cells import format_cell
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.scan import Scan, apply_policy, digest_directory, scan
from mlflow_resnet.images.sources import fetch_labeled_directory
from mlflow_resnet.images.splitting.directory_split import split_labeled
from mlflow_resnet.io.console import is_first, say
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.options.evaluate import EvaluateOptions
from mlflow_resnet.options.export import ExportOptions
from mlflow_resnet.options.promote import PromoteOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset, ImagesToEvaluate, build_dataset_source
from mlflow_resnet.training import processes

ScanOptions = EvaluateOptions | ExportOptions | PromoteOptions | TrainOptions


def scan_training_data(options: TrainOptions) -> tuple[ImageDirectoryDataset, ImageDirectoryDataset]:
    """Training and validation images, listed and decoded once; unreadable ones are all reported before epoch 1."""
    directory, found = scan_directory(options.train_dir, options, "train")
    if options.val_dir:
        val_set = scan_dataset(options.val_dir, options, "validation")
        return build_dataset(directory, found), val_set
    pixels = {name: facts.pixels for name, facts in found.facts.items()}
    train, val = split_labeled(directory, 1 - options.val_fraction, options.seed_of_split, pixels)
    return build_dataset(train, found, "-training"), build_dataset(val, found, "-validation")


def scan_dataset(image_dir: str, options: ScanOptions, role: str) -> ImageDirectoryDataset:
    """A labeled directory, listed and decoded once, as a dataset."""
    return build_dataset(*scan_directory(image_dir, options, role))


def check_dataset(data: ImageDirectoryDataset, on_bad_image: str, num_workers: int) -> ImageDirectoryDataset:
    """A dataset without the images that the policy leaves out. It is scanned if that was not done yet."""
    found = data.found if data.found.facts else scan_together(data.directory, num_workers, f"checking {data.name}")
    directory = apply_policy(data.directory, found, on_bad_image)
    return ImageDirectoryDataset(directory, data.source, data.name, data.digest, found)


def get_dataset_images(dataset: EvaluationDataset) -> ImageDirectoryDataset:
    """Returns our own dataset, or one of a table with one column of paths; InvalidDatasetError for other tables."""
    if isinstance(dataset, ImagesToEvaluate):
        return dataset.images
    table = pd.DataFrame(dataset.features_data)
    if len(table.columns) != 1:
        columns = join_names(map(repr, table.columns))
        problem = f"has {columns} beside the targets; give one column, of paths, or name it with feature_names"
        raise InvalidDatasetError(dataset.name, problem)
    paths = tuple(table.iloc[:, 0])
    if wrong := [each for each in paths if not isinstance(each, str | os.PathLike)]:
        problem = f"has {wrong[0]!r:.40} among its images; give paths of files"
        raise InvalidDatasetError(dataset.name, problem)
    files = tuple(map(os.fspath, paths))
    labels = tuple(each if isinstance(each, str) else format_cell(each) for each in dataset.labels_data)
    if "" in labels:
        raise InvalidDatasetError(dataset.name, f"has no target in row {labels.index('') + 1}; leave that row out")
    classes = tuple(sorted(set(labels)))
    directory = LabeledDirectory(dataset.name, classes, files, labels, files, Ignored())
    return ImageDirectoryDataset(directory, CodeDatasetSource({}), dataset.name, dataset.digest)


def scan_directory(image_dir: str, options: ScanOptions, role: str) -> tuple[LabeledDirectory, Scan]:
    """Returns a directory, copied if it is in S3, without what the policy leaves out, and the scan of all of it."""
    with progress(None, f"copying {role} images", is_remote(image_dir)) as bar:
        directory = processes.call_first_alone(
            lambda: fetch_labeled_directory(image_dir, bar.update, options.follow_links)
        )
    found = scan_together(directory, options.num_workers, f"checking {role} images")
    kept = apply_policy(directory, found, options.on_bad_image)
    left_out = f"left out {len(found.bad)} unreadable images: {join_names(map(printable, found.bad))}"
    summary = f"{role}: {len(kept)} images of {len(kept.classes)} classes in {image_dir}"
    say(summary, str(kept.ignored), kept.advice, left_out if found.bad else "")
    return kept, found


def scan_together(directory: LabeledDirectory, num_workers: int, title: str) -> Scan:
    """Scans the directory; of several processes that train together, each scans a part and all get the whole."""
    own = directory.subset(processes.own_share(len(directory)))
    with progress(len(own), title) as bar:
        parts = processes.gather_values(scan(own, num_workers or default_threads(), bar.update))
    facts = {name: found for part in parts for name, found in part.facts.items()}
    return Scan({name: facts[name] for name in directory.names})


def progress(total: int | None, title: str, wanted: bool = True) -> tqdm:
    """A bar that is shown on a terminal, by the first of several processes."""
    return tqdm(total=total, desc=title, unit="img", leave=False, disable=None if wanted and is_first() else True)


def build_dataset(directory: LabeledDirectory, found: Scan, suffix: str = "") -> ImageDirectoryDataset:
    """A scanned directory as a dataset called after the last part of the path or URI that the user gave."""
    source, digest = build_dataset_source(directory.source), digest_directory(directory, found.hashes)
    name = printable(os.path.basename(os.path.abspath(directory.source)))
    return ImageDirectoryDataset(directory, source, name + suffix, digest, found)
