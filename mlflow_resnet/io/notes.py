"""Named facts that outlive a process."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import CheckpointError, OutputError
from mlflow_resnet.io.atomic import new_file, write_file
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.credentials import all_without_credentials
from mlflow_resnet.io.untrusted import MOST_JSON, check_fields, parse_fields, read_plain

SPARE, SPARE_BYTES = ".spare", 64 * 2**10  # a file beside the notes, given up when the disk is full
NOTE_KINDS = {  # of a training's notes
    "identity": dict[str, Any],
    "record_id": str,
    "run_id": str,
    "model_id": str | None,
    "version": str,
    "alias": str,
    "begun": bool,
    "audit": list[str],
    "headline": dict[str, str],
    "best_epoch": int,
    "metrics": dict[str, float],
    "temperature": float,
    "precision_checks": dict[str, dict[str, Any]],
    "status": str,
    "ended": int,
}


class Notes:
    """Named facts that JSON can hold, in memory, and in the file `path` if there is one. Threads may share them."""

    def __init__(self, path: Path | None = None, **facts: Any) -> None:
        """Raises CheckpointError if the file is there and cannot be read."""
        self.path = path
        self.lock = threading.Lock()
        noted = {}
        if path:
            try:
                noted = read_notes(path)
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                raise CheckpointError(path, f"cannot be read ({one_line(error)}). Remove the folder") from None
        kept = all_without_credentials(noted)
        self.facts = kept | facts
        if kept != noted:
            self.note()  # files of earlier versions have the tracking server's password

    def __contains__(self, name: str) -> bool:
        return name in self.facts

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.facts.get(name, default)

    def note(self, **facts: Any) -> None:
        """Adds facts, without credentials in them; they are on the disk when this returns, or it raises OutputError.

        On a full disk they are written into the room that the first call kept free for this.
        """
        with self.lock:
            self.facts |= all_without_credentials(facts)
            if not self.path:
                return
            spare = self.path.with_name(SPARE)
            content = json.dumps(self.facts, indent=1).encode()
            try:
                if not self.path.exists():
                    write_whole(spare, bytes(SPARE_BYTES))
                write_whole(self.path, content)
            except OutputError as error:
                is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
                if not is_full or not spare.exists():
                    raise
                spare.unlink()
                write_whole(self.path, content)

    def clear(self) -> None:
        """Forgets everything; the file stays until the next fact."""
        with self.lock:
            self.facts = {}


def write_whole(path: Path, content: bytes) -> None:
    with new_file(path, mode=0o600) as partial:
        write_file(partial, content)


def read_notes(path: Path) -> dict[str, Any]:
    """The notes of a training in a file. Raises ValueError if they are damaged, and OSError."""
    facts = parse_fields(read_plain(path, MOST_JSON))
    check_fields(facts, NOTE_KINDS)
    return facts
