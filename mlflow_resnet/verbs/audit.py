"""Looks for what is wrong with labeled images."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tqdm import tqdm

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import AuditFailedError
from mlflow_resnet.images.audit.findings import AuditedImage, Finding, findings
from mlflow_resnet.images.audit.image_facts import FactsJournal, check_imagehash
from mlflow_resnet.images.layout import TRAIN, VAL
from mlflow_resnet.images.scan import scan
from mlflow_resnet.images.sources import check_directories, fetch_labeled_directory
from mlflow_resnet.io.console import say
from mlflow_resnet.io.own_folders import private_cache
from mlflow_resnet.io.parallel import default_threads
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.audit import AuditOptions
from mlflow_resnet.runs.training import collect_audited_images
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import end_attached_run, enter_run
from mlflow_resnet.tracking.server import check_servers


@dataclass(frozen=True)
class Audit:
    """Findings of an audit; the run `run_id` has the report and the facts about each image."""

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
    with end_attached_run():
        check_directories(options.train_dir, options.val_dir)
        if options.near_duplicates:
            check_imagehash("audit")
        check_servers(registry=False)
        parts = {TRAIN: options.train_dir} | ({VAL: options.val_dir} if options.val_dir else {})
        images = [image for part, uri in parts.items() for image in audit_directory(part, uri, options)]
        found = findings(images)
        with enter_run(f"audit of {options.train_dir}", asdict(options)) as run:
            recorder = make_recorder(run)
            record.log_params(recorder, asdict(options))
            record.log_tags(recorder, {"mlflow_resnet.version": __version__})
            record.log_audit(recorder, images, found)
        fatal = [str(finding) for finding in found if finding.kind in options.fatal]
        if fatal:
            raise AuditFailedError(f"{'; '.join(fatal)}. The report is in run {run.info.run_id}.")
    return Audit(run.info.run_id, len(images), found)


def audit_directory(part: str, uri: str, options: AuditOptions) -> list[AuditedImage]:
    """Scans a labeled directory and returns its images with the facts about each."""
    directory = fetch_labeled_directory(uri, follow_links=options.follow_links)
    if directory.advice:
        say(f"{part}: {directory.advice}")
    threads = options.num_workers or default_threads()
    with (
        FactsJournal(private_cache(), uri) as journal,
        tqdm(total=len(directory), desc=f"auditing {part}", unit="img", leave=False, disable=None) as bar,
    ):
        found = scan(directory, threads, bar.update, looks=options.near_duplicates, journal=journal)
    return collect_audited_images(part, directory, found)


def summarize_audit(result: Audit, options: AuditOptions) -> str:
    lines = [str(finding) for finding in result.findings] or ["nothing found"]
    return in_lines([f"{result.images} images", *lines, f"report    audit/report.html in run {result.run_id}"])
