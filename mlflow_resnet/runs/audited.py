"""What an audit shows of the images of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_resnet.errors import join_names
from mlflow_resnet.images.audit.findings import AuditedImage, Finding, findings
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.scan import Scan
from mlflow_resnet.io.console import say
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.record import Recorder


def collect_audited_images(part: str, directory: LabeledDirectory, found: Scan) -> list[AuditedImage]:
    """The images of a scanned directory."""
    rows = zip(directory.names, directory.labels, directory.paths, strict=True)
    return [AuditedImage(part, name, label, path, found.facts[name]) for name, label, path in rows]


def audit_training(recorder: Recorder, sets: Mapping[str, ImageDirectoryDataset]) -> Sequence[Finding]:
    """Prints and logs the findings in a training's images. `sets` are its parts: train, val and perhaps test."""
    images = [
        image for part, data in sets.items() for image in collect_audited_images(part, data.directory, data.found)
    ]
    found = findings(images)
    record.log_audit(recorder, images, found)
    if found:
        kinds = join_names(f"{finding.kind} {finding.images}" for finding in found)
        say(f"audit: {kinds} images; see audit/report.html in the run")
    return found
