"""Named facts that outlive a process."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import CheckpointError
from mlflow_resnet.images.output import new_file
from mlflow_resnet.training.checkpoints import write_file


class Notes:
    """Named facts that JSON can hold, in memory, and in the file `path` if there is one. Threads may share them.

    Raises:
        CheckpointError: if the file cannot be read.
    """

    def __init__(self, path: Path | None = None, **facts: Any) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.facts = (read(path) if path else {}) | facts

    def __contains__(self, name: str) -> bool:
        return name in self.facts

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.facts.get(name, default)

    def note(self, **facts: Any) -> None:
        """Adds facts, which are on the disk when this returns.

        Raises:
            OutputError: if they cannot be written.
        """
        with self.lock:
            self.facts |= facts
            if self.path:
                with new_file(self.path) as partial:
                    write_file(partial, json.dumps(self.facts, indent=1).encode())

    def clear(self) -> None:
        """Forgets everything; the file stays until the next fact."""
        with self.lock:
            self.facts = {}


def read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read ({error}). Remove the folder") from None
