"""A challenger that answers a share of the requests too, in the background; nobody sees its answers but a monitor.

It has a thread of its own and takes what it can get: a request that comes while it is busy with others is left out.
"""

from __future__ import annotations

import json
import queue
import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mlflow

from mlflow_resnet.io.console import say
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.scoring.columns import ERROR, SCORED_LABELS, Columns
from mlflow_resnet.serving.monitoring import SHADOWED
from mlflow_resnet.serving.protocols.question import Question
from mlflow_resnet.serving.version import ServedVersion

MOST_WAITING = 32  # requests
SHADOW_STOP_SECONDS = 10.0
SAME, DIFFERENT, NOT_COMPARED, LEFT_OUT = "same", "different", "failed", "left out"


@dataclass
class Shadow:
    """A challenger, and how often it gave the champion's label.

    Attributes:
        share: of the requests that it is asked too, from 0 to 1.
        counts: images by outcome.
        changes: (champion's label, challenger's label) -> images.
    """

    challenger: ServedVersion
    share: float
    counts: Counter[str] = field(default_factory=Counter)
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._waiting: queue.Queue[tuple[Question, Sequence[str | None]] | None] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._compare_all, daemon=True, name="asks the challenger")
        self._thread.start()

    def offer(self, question: Question, answer: Columns) -> None:
        """Has the challenger answer a question too, of which `answer` is the champion's, or leaves it out."""
        if random.random() >= self.share:
            return
        try:
            self._waiting.put_nowait((question, list(answer[SCORED_LABELS])))
        except queue.Full:
            self._count(LEFT_OUT, len(answer[SCORED_LABELS]))

    def stop(self) -> None:
        """Ends the comparison, and logs a run with what came of it."""
        with suppress(queue.Empty):  # what has begun is finished, the rest is left out
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)
        self._thread.join(SHADOW_STOP_SECONDS)
        if self.images:
            try:
                self._log_run()
            except Exception as error:  # connections, databases: no common base class
                say(f"the run about {self.challenger.uri} was not logged ({one_line(error)})")

    @property
    def images(self) -> int:
        """That both have given a label."""
        return self.counts[SAME] + self.counts[DIFFERENT]

    @property
    def agreement(self) -> float | None:
        return self.counts[SAME] / self.images if self.images else None

    def facts(self) -> dict[str, Any]:
        """Returns the challenger's part of the answer to `/model`."""
        version, outcomes = self.challenger.version, (SAME, DIFFERENT, NOT_COMPARED, LEFT_OUT)
        counts = {outcome.replace(" ", "_"): self.counts[outcome] for outcome in outcomes}
        return {"name": version.name, "version": str(version.version), "agreement": self.agreement, **counts}

    def _compare_all(self) -> None:
        while (asked := self._waiting.get()) is not None:
            self._compare(*asked)

    def _compare(self, question: Question, labels: Sequence[str | None]) -> None:
        try:
            answer = self.challenger.model.score(question.images, dict(question.params))
        except Exception:  # too busy, or whatever else; nobody waits for it
            self._count(NOT_COMPARED, len(labels))
            return
        for champion, challenger, error in zip(labels, answer[SCORED_LABELS], answer[ERROR], strict=True):
            if champion is None or error:
                self._count(NOT_COMPARED, 1)
            else:
                self._count(SAME if champion == challenger else DIFFERENT, 1)
                self.changes[champion, challenger] += champion != challenger

    def _count(self, outcome: str, images: int) -> None:
        with self._lock:  # requests leave images out in many threads
            self.counts[outcome] += images
        SHADOWED.labels(outcome, str(self.challenger.version.version)).inc(images)

    def _log_run(self) -> None:
        """With the names that the verb `shadow` gives them."""
        rows = [[*labels, images] for labels, images in self.changes.most_common() if images]
        table = {"columns": ["champion", "challenger", "images"], "data": rows}
        metrics = {"agreement": self.agreement, "images": self.images, "disagreements": self.counts[DIFFERENT]}
        with mlflow.start_run(run_name=f"shadow {self.challenger.uri}") as run:
            mlflow.log_params({"challenger": self.challenger.uri, "share": self.share})
            mlflow.log_metrics({f"shadow/{name}": float(value or 0) for name, value in metrics.items()})
            mlflow.log_text(json.dumps(table), "shadow/changes.json")
        say(f"agreement {self.agreement:.4f} on {self.images} images; run {run.info.run_id} has where they differ")
