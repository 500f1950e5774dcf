"""Folders of exported files of one format, described by `export.json`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_resnet.errors import InvalidModelError, TamperedWeightsError
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import MOST_JSON, build_record, parse_fields, read_plain
from mlflow_resnet.model.storage import hash_file

EXPORT_FILE = "export.json"


@dataclass(frozen=True)
class Export:
    """What `export.json` says.

    Attributes:
        format: a backend's name, or torch_export.
        precision: fp32, bf16 or int8.
        classifier_sha256: `digest_classifier` of the one that was exported.
        files: hex sha256 of each file, by its name.
    """

    format: str
    precision: str
    classifier_sha256: str
    files: Mapping[str, str]


def write_export(folder: Path, kind: str, precision: str, classifier_sha256: str) -> None:
    """Describes the files that are in `folder`."""
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    export = Export(kind, precision, classifier_sha256, files)
    (folder / EXPORT_FILE).write_text(json.dumps(asdict(export), indent=2) + "\n", encoding="utf-8")


def read_export(folder: str | os.PathLike[str]) -> Export:
    """What `export.json` says. Raises InvalidModelError if it cannot be read."""
    try:
        return build_record(Export, parse_fields(read_plain(Path(folder) / EXPORT_FILE, MOST_JSON, follow=True)))
    except (OSError, ValueError) as error:
        raise InvalidModelError(str(folder), f"no readable {EXPORT_FILE} ({one_line(error)}).") from None


def read_exports(data: Path) -> dict[str, Export]:
    """Returns the exports in a model's data folder, by folder name. Raises InvalidModelError if one cannot be read."""
    return {path.parent.name: read_export(path.parent) for path in sorted(data.glob(f"*/{EXPORT_FILE}"))}


def read_verified_files(folder: Path, export: Export) -> dict[str, bytes]:
    """The content of the exported files, by name. Raises InvalidModelError if one is missing, or not what it was."""
    contents = {}
    for name, expected in export.files.items():
        try:
            content = (folder / os.path.basename(name)).read_bytes()
        except OSError:
            raise InvalidModelError(str(folder / name), "missing. Export the model again.") from None
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise TamperedWeightsError(str(folder / name), expected, found)
        contents[name] = content
    return contents


def copy_export(source: Path, data: Path) -> None:
    """Copies what was exported to `source` into a folder of its format in `data`, and verifies it."""
    export = read_export(source)
    contents = read_verified_files(source, export)
    folder = data / os.path.basename(export.format)
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / EXPORT_FILE).write_bytes((source / EXPORT_FILE).read_bytes())


def exports_sha256(data: Path) -> str:
    """Hex sha256 of all exports in a model's data folder, as older models were logged with; empty if there are none."""
    files = sorted(data.glob(f"*/{EXPORT_FILE}"))
    digests = [f"{path.parent.name} {hash_file(path)}" for path in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if digests else ""
