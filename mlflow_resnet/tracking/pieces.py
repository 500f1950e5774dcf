"""What the pieces of a run's record are, as they wait in folders: each has a JSON file, and perhaps files besides."""

from __future__ import annotations

import re
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_resnet.errors import CheckpointError
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.characters import all_encodable
from mlflow_resnet.io.text.credentials import all_without_credentials
from mlflow_resnet.io.untrusted import MOST_JSON, check_fields, parse_fields, read_plain, shorten_value

PIECE, FILES = "piece.json", "files"
NAME = re.compile(r"[0-9]{6,12}")  # of the folder of a piece
LEFTOVER = re.compile(r"\.[0-9]{6,12}(\.partial-[0-9a-f]+)?")  # of one that was not finished, or is being removed
POINT: dict[str, Any] = {
    "values": dict[str, float],
    "step": int,
    "time": int,
    "dataset": list[str] | None,
    "of_model": bool,
}
NEW_RUN: dict[str, Any] = {"name": str, "experiment": str, "experiment_id": str, "time": int, "tags": dict[str, str]}
FIELDS: dict[str, dict[str, Any]] = {  # by kind, besides kind and id
    "run": NEW_RUN,
    "given_run": NEW_RUN | {"run_id": str, "record_id": str, "params": dict[str, str]},
    "params": {"params": dict[str, str]},
    "tags": {"tags": dict[str, str]},
    "metrics": {"points": list[dict[str, Any]]},
    "epoch": {"step": int, "points": list[dict[str, Any]]},
    "input": {"dataset": dict[str, str], "context": str, "of_model": bool},
    "files": {"folder": str, "tables": list[str]},
    "model": {},
    "model_files": {"step": int},
    "model_failed": {},
    "version": {"name": str, "alias": str, "description": str, "tags": dict[str, str]},
}


def piece_of(kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What is sent, and kept on disks until then: text that every server takes, without credentials."""
    return for_servers(facts) | {"kind": kind, "id": uuid.uuid4().hex}


def for_servers(facts: dict[str, Any]) -> dict[str, Any]:
    """Options and addresses may hold credentials, and names of files any bytes."""
    return all_without_credentials(all_encodable(facts))


def is_leftover(path: Path) -> bool:
    """Whether a killed process left this: nothing else in a folder, which may be anybody's, is removed."""
    return LEFTOVER.fullmatch(path.name) is not None


def read_piece(folder: Path) -> dict[str, Any]:
    """What a piece is.

    Raises:
        FileNotFoundError: if it was delivered meanwhile.
        CheckpointError: if it is damaged.
    """
    try:
        piece = for_servers(parse_fields(read_plain(folder / PIECE, MOST_JSON)))
        check_piece(piece)
        check_files(folder)
        return piece
    except FileNotFoundError:
        if folder.is_dir():
            raise damaged_piece(folder, f"no {PIECE}") from None
        raise
    except (OSError, ValueError) as error:
        raise damaged_piece(folder, one_line(error)) from None


def check_piece(piece: dict[str, Any]) -> None:
    """Raises ValueError unless the piece is of a kind, has what that kind needs, and names no folder elsewhere."""
    kind = piece.get("kind")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError(f"kind is {shorten_value(kind)}; expected one of {', '.join(FIELDS)}")
    require(piece, FIELDS[kind] | {"id": str}, "")
    for point in piece["points"] if "points" in FIELDS[kind] else ():
        require(point, POINT, "a point's ")
        if point["dataset"] is not None and len(point["dataset"]) != 2:
            raise ValueError("a point's dataset is no name and digest")
    place = PurePosixPath(piece["folder"] if kind == "files" else "")
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"folder {shorten_value(str(place))} leads out of the artifacts of the run")


def require(facts: dict[str, Any], kinds: dict[str, Any], whose: str) -> None:
    if missing := kinds.keys() - facts.keys():
        raise ValueError(f"{whose}{min(missing)} is missing")
    check_fields(facts, kinds, whose)


def check_files(folder: Path) -> None:
    """Raises ValueError if there is anything but plain files and folders: a link could lead to any file."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ValueError(f"{path.relative_to(folder.parent)} is a link, device or pipe")


def damaged_piece(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(folder, f"is damaged ({problem}). To deliver what comes after it, remove it")
