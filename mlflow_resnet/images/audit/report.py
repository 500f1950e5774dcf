"""The findings as a page with thumbnails that needs nothing else, and the facts as a table."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_resnet.errors import InvalidImageError, encodable, printable
from mlflow_resnet.images.audit.findings import AuditedImage, Finding, Group
from mlflow_resnet.images.decoding.decode import decode, read_bytes
from mlflow_resnet.options.audit import FINDINGS

THUMBNAIL_EDGE = 112  # pixels
GROUPS_SHOWN, IMAGES_SHOWN = 12, 6  # of each finding, of each group
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em 1em .2em 0; text-align: left }
.group { display: inline-flex; gap: .5em; margin: .4em; padding: .4em; border: 1px solid #ccc; border-radius: 4px }
figure { margin: 0; width: 8em } figcaption { font-size: 12px; overflow-wrap: anywhere } img { max-width: 100% }
"""


def write_report(folder: Path, images: Sequence[AuditedImage], found: Sequence[Finding]) -> None:
    """Writes report.html and images.parquet, a row per image with its facts and the kinds of its findings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text("".join(page(images, found)), encoding="utf-8")
    pq.write_table(table_of(images, found), folder / "images.parquet")


def table_of(images: Sequence[AuditedImage], found: Sequence[Finding]) -> pa.Table:
    """Columns part, name, label, findings (kinds with commas between), and the fields of ImageFacts."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        for group in finding.groups:
            for image in group:
                kinds.setdefault((image.part, image.name), []).append(finding.kind)
    return pa.Table.from_pylist(
        [
            {"part": image.part, "name": encodable(image.name), "label": encodable(image.label)}
            | {"findings": ",".join(kinds.get((image.part, image.name), ()))}
            | asdict(image.facts)
            | {"look": "" if image.facts.look is None else f"{image.facts.look:016x}"}
            for image in images
        ]
    )


def page(images: Sequence[AuditedImage], found: Sequence[Finding]) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>Image audit</title><style>{STYLE}</style>"
    counts = Counter((image.part, image.label) for image in images)
    yield f"<h1>Image audit</h1><p>{len(images)} images, {len(found)} kinds of findings.</p>"
    yield "<table><tr><th>finding<th>images<th>they</tr>"
    for finding in found:
        row = f"<td><a href='#{finding.kind}'>{finding.kind}</a><td>{finding.images}<td>{FINDINGS[finding.kind]}"
        yield f"<tr>{row}</tr>"
    yield "</table><h2>Classes</h2><table><tr><th>part<th>class<th>images</tr>"
    for (part, label), count in sorted(counts.items()):
        yield f"<tr><td>{escape(printable(part))}<td>{escape(printable(label))}<td>{count}</tr>"
    yield "</table>"
    for finding in found:
        yield from section(finding)


def section(finding: Finding) -> Iterator[str]:
    """One kind of finding, with the first few of its groups."""
    yield f"<h2 id={finding.kind}>{finding.kind}: {finding.images} images {FINDINGS[finding.kind]}</h2>"
    for group in finding.groups[:GROUPS_SHOWN]:
        yield "<div class=group>"
        yield from map(figure, group[:IMAGES_SHOWN])
        yield f"{more(group, IMAGES_SHOWN)}</div>"
    yield f"<p>{more(finding.groups, GROUPS_SHOWN)}</p>"


def more(items: Sequence[AuditedImage] | Sequence[Group], shown: int) -> str:
    return f"and {len(items) - shown} more" if len(items) > shown else ""


def figure(image: AuditedImage) -> str:
    """A thumbnail with the image's name, or with the reason why there is none."""
    caption = escape(str(image)) + (f"<br>{escape(printable(image.facts.problem))}" if image.facts.problem else "")
    return f"<figure>{'' if image.facts.problem else thumbnail(image.path)}<figcaption>{caption}</figcaption></figure>"


def thumbnail(path: str) -> str:
    """An image element that holds its picture; empty if the file has gone."""
    try:
        picture = decode(read_bytes(path), THUMBNAIL_EDGE)
    except InvalidImageError:
        return ""
    picture.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
