"""The findings as a page with thumbnails that needs nothing else, and the facts as a table."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidImageError, encodable
from mlflow_resnet.images.audit.findings import AuditedImage, Finding
from mlflow_resnet.images.decoding.decode import decode, read_bytes
from mlflow_resnet.io.text.templates import render_template
from mlflow_resnet.options.audit import FINDINGS

THUMBNAIL_EDGE = 112  # pixels
GROUPS_SHOWN, IMAGES_SHOWN = 12, 6  # of each finding, of each group


def write_audit_report(folder: Path, images: Sequence[AuditedImage], found: Sequence[Finding]) -> None:
    """Writes report.html and images.parquet, a row per image with its facts and the kinds of its findings,
    with commas between."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(render_page(images, found), encoding="utf-8")
    kinds: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        for image in chain.from_iterable(finding.groups):
            kinds.setdefault((image.part, image.name), []).append(finding.kind)
    rows = [
        {"part": image.part, "name": encodable(image.name), "label": encodable(image.label)}
        | {"findings": ",".join(kinds.get((image.part, image.name), ()))}
        | asdict(image.facts)
        | {"look": "" if image.facts.look is None else f"{image.facts.look:016x}"}
        for image in images
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")


def render_page(images: Sequence[AuditedImage], found: Sequence[Finding]) -> str:
    """The first groups of each kind of finding, with thumbnails of their first images."""
    return render_template(
        "images/audit/report.html.jinja",
        images=images,
        found=found,
        kinds=FINDINGS,
        classes=sorted(Counter((image.part, image.label) for image in images).items()),
        groups_shown=GROUPS_SHOWN,
        images_shown=IMAGES_SHOWN,
        draw_thumbnail=draw_thumbnail,
    )


def draw_thumbnail(path: str) -> str:
    """A small JPEG of an image, in base64; empty if the file has gone."""
    try:
        picture = decode(read_bytes(path), THUMBNAIL_EDGE)
    except InvalidImageError:
        return ""
    picture.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
