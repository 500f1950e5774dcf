"""From raw images to directories that can be trusted. One function per verb: convert, split, transform, audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tqdm import tqdm

from mlflow_resnet._version import __version__
from mlflow_resnet.io.console import say
from mlflow_resnet.errors import AuditFailedError, listed
from mlflow_resnet.images.audit.facts import check_imagehash
from mlflow_resnet.images.audit.findings import TRAIN, VAL, AuditedImage, Finding, findings
from mlflow_resnet.images.audit.journal import FactsJournal
from mlflow_resnet.io.cache_folder import private_cache
from mlflow_resnet.images.conversion.convert import Converted
from mlflow_resnet.images.conversion.convert import convert as convert_images
from mlflow_resnet.io.destinations import destination
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.images.scan import Scan, scan
from mlflow_resnet.images.sources import check_directories, labeled_directory
from mlflow_resnet.images.splitting.split import split as split_images
from mlflow_resnet.options import AuditOptions, ConvertOptions, SplitOptions, TransformOptions
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.recorder import Recorder, recorder_of
from mlflow_resnet.tracking.run import attached_run_ends_with, recorded_run
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.verbs.transform import Transformed
from mlflow_resnet.verbs.transform import transform as transform_images


def convert(options: ConvertOptions) -> Converted:
    """Makes an image directory from folders, archives, S3, tables or annotations.

    One that is complete gets what is new, unless it is in S3, where it must be empty.

    Raises:
        MlflowResnetError: for anything a user can cause. A bad image is only left out.
    """
    with (
        attached_run_ends_with(),
        destination(options.output_dir, key=repr(replace(options, num_workers=0))) as place,
        tqdm(desc="converting", unit="img", leave=False, disable=None) as bar,
    ):
        return convert_images(
            options.source,
            place,
            image_root=options.image_root,
            image_column=options.image_column,
            label_column=options.label_column,
            transfer=options.transfer,
            threads=options.num_workers,
            csv_formulas=options.csv_formulas,
            follow_links=options.follow_links,
            called=options.output_dir,
            on_image=bar.update,
        )


def transform(options: TransformOptions) -> Transformed:
    """Writes what a list of transformations makes of each image.

    Raises:
        MlflowResnetError: for anything a user can cause. A bad image is only left out.
    """
    with attached_run_ends_with(), tqdm(desc="transforming", unit="img", leave=False, disable=None) as bar:
        check_directories(options.image_dir)
        return transform_images(options, bar.update)


def split(options: SplitOptions) -> list[LabeledDirectory]:
    """Copies a labeled directory into two or three parts.

    Raises:
        MlflowResnetError: for anything a user can cause.
    """
    with attached_run_ends_with():
        check_directories(options.image_dir)
        return split_images(
            options.image_dir,
            options.train_dir,
            options.val_dir,
            options.test_dir,
            fraction=options.fraction,
            test_fraction=options.test_fraction,
            train_count=options.train_count,
            val_count=options.val_count,
            test_count=options.test_count,
            seed=options.random_seed,
            group_regex=options.group_regex,
            group_table=options.group_table,
            group_column=options.group_column,
            duplicates=options.duplicates,
            threads=options.num_workers,
            follow_links=options.follow_links,
        )


@dataclass(frozen=True)
class Audit:
    """What an audit found; the run `run_id` has the report and the facts about each image."""

    run_id: str
    images: int
    findings: list[Finding]


def audit(options: AuditOptions) -> Audit:
    """Looks at every image of one or two labeled directories, and logs what is wrong with them in a run.

    Repeated, it reads only what has changed.

    Raises:
        AuditFailedError: if there is a finding of a kind in `fail_on`, after everything is logged.
        MlflowResnetError: for anything else a user can cause.
    """
    with attached_run_ends_with():
        check_directories(options.train_dir, options.val_dir)
        if options.near_duplicates:
            check_imagehash("audit")
        check_servers(registry=False)
        parts = {TRAIN: options.train_dir} | ({VAL: options.val_dir} if options.val_dir else {})
        images = [image for part, uri in parts.items() for image in audited_directory(part, uri, options)]
        found = findings(images)
        with recorded_run(f"audit of {options.train_dir}", asdict(options)) as run:
            recorder = recorder_of(run)
            record.log_params(recorder, asdict(options))
            record.log_tags(recorder, {"mlflow_resnet.version": __version__})
            record.log_audit(recorder, images, found)
        fatal = [str(finding) for finding in found if finding.kind in options.fatal]
        if fatal:
            raise AuditFailedError(f"{'; '.join(fatal)}. The report is in run {run.info.run_id}.")
    return Audit(run.info.run_id, len(images), found)


def audited_directory(part: str, uri: str, options: AuditOptions) -> list[AuditedImage]:
    """Every image of a labeled directory, with what is found out about it."""
    directory = labeled_directory(uri, follow_links=options.follow_links)
    if directory.advice:
        say(f"{part}: {directory.advice}")
    threads = options.num_workers or default_threads()
    with (
        FactsJournal(private_cache(), uri) as journal,
        tqdm(total=len(directory), desc=f"auditing {part}", unit="img", leave=False, disable=None) as bar,
    ):
        found = scan(directory, threads, bar.update, looks=options.near_duplicates, journal=journal)
    return audited(part, directory, found)


def audited(part: str, directory: LabeledDirectory, found: Scan) -> list[AuditedImage]:
    """The images of a scanned directory."""
    rows = zip(directory.names, directory.labels, directory.paths, strict=True)
    return [AuditedImage(part, name, label, path, found.facts[name]) for name, label, path in rows]


def audit_training(recorder: Recorder, sets: Mapping[str, ImageDirectoryDataset]) -> Sequence[Finding]:
    """Tells and logs what the scan of a training's images shows. `sets` are its parts: train, val and perhaps test."""
    images = [image for part, data in sets.items() for image in audited(part, data.directory, data.found)]
    found = findings(images)
    record.log_audit(recorder, images, found)
    if found:
        kinds = listed(f"{finding.kind} {finding.images}" for finding in found)
        say(f"audit: {kinds} images; see audit/report.html in the run")
    return found
