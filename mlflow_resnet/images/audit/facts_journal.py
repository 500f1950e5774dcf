"""Facts kept from one audit to the next: a file that has not changed is not read again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from types import TracebackType

from mlflow_resnet.images.audit.image_facts import ImageFacts
from mlflow_resnet.io.untrusted import build_record, parse_json

FactsKey = tuple[str, int, int]  # path, bytes, time of the last change in nanoseconds


class FactsJournal:
    """Facts by file, written as they are found, so that an interrupted audit can be resumed."""

    def __init__(self, folder: Path, source: str) -> None:
        self.path = folder / "audit" / f"{hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:16]}.jsonl"
        self.known: dict[FactsKey, ImageFacts] = {}
        self._lock = Lock()

    def __enter__(self) -> FactsJournal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            with open(self.path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        (path, size, time), facts = parse_json(line)
                        self.known[path, size, time] = build_record(ImageFacts, facts)
                    except (ValueError, TypeError):  # a killed process did not finish it, or it is of another version
                        continue
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def find_once(self, find: Callable[[str], ImageFacts], path: str, looks: bool) -> ImageFacts:
        """Returns `find(path)`, or the facts in the journal if the file is unchanged and they are complete."""
        try:
            status = os.stat(path)
        except OSError:
            return find(path)
        key = path, status.st_size, status.st_mtime_ns
        facts = self.known.get(key)
        if facts is None or (looks and facts.look is None and not facts.problem):
            facts = find(path)
            with self._lock:
                self.known[key] = facts
                self._file.write(json.dumps([key, asdict(facts)]) + "\n")
        return facts if looks else replace(facts, look=None)
