"""The version that answers, and the thread that follows the alias."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mlflow_resnet.io.console import say
from mlflow_resnet.io.parallel import within
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.registry.versions import are_same, format_version_uri
from mlflow_resnet.scoring.over_http.bodies import without_words_of_others
from mlflow_resnet.serving.monitoring import BEHIND, LAST_CHECK, note_version
from mlflow_resnet.serving.version import ServedVersion, load_version, utc_now
from mlflow_resnet.tracking.server import CHECK_SECONDS, require_answer

LONGEST_WAIT_SECONDS = 600.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class RefusedVersion:
    """A version that could not take over, why, and when to try it again."""

    version: ModelVersion
    why: str
    wait_seconds: float
    again_at: float  # of time.monotonic


class CurrentVersion:
    """The version that answers. With an alias to follow, a thread replaces it when the alias has moved.

    Attributes:
        served: replaced by one assignment; a request keeps the version that it began with.
        last_check: when the registry was last asked, UTC; "" before that.
        last_error: why the version is not the one that the alias means, or why that is not known; "" if all is well.
            For clients, so without words of others, which the log has.
    """

    def __init__(self, served: ServedVersion, alias: str, device: str, poll_seconds: float) -> None:
        self.served = served
        note_version(served.labels)
        self.last_check = self.last_error = self._last_said = ""
        self._alias, self._device, self._poll_seconds = alias, device, poll_seconds
        self._refusal: RefusedVersion | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="follows the alias")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Follows the alias no more, but does not wait long for a registry that does not answer."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _follow(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            self.look()

    def look(self) -> None:
        """Asks the registry once where the alias is, and serves that version if it can be served."""
        version = self._find_version()
        if version:
            self._serve(version)

    def _find_version(self) -> ModelVersion | None:
        """Returns the version that the alias means; notes why if the registry does not say in time."""
        name = self.served.version.name
        try:
            require_answer(mlflow.get_registry_uri())
            version = within(CHECK_SECONDS, lambda: MlflowClient().get_model_version_by_alias(name, self._alias))
        except Exception as error:  # connections, DNS, TLS, databases: no common base class
            self._note(f"where @{self._alias} of {name} points is not known ({one_line(error)})")
            version = None
        self.last_check = utc_now()
        LAST_CHECK.set_to_current_time()
        return version

    def _serve(self, version: ModelVersion) -> None:
        refusal = self._refusal if self._refusal and are_same(self._refusal.version, version) else None
        if not are_same(self.served.version, version):
            if refusal and time.monotonic() < refusal.again_at:
                self._note(refusal.why)
                return
            try:
                served = load_version(format_version_uri(version), self._device)
            except MlflowException as error:
                wait = min(2 * (refusal.wait_seconds if refusal else self._poll_seconds), LONGEST_WAIT_SECONDS)
                self._refusal = RefusedVersion(version, error.message, wait, time.monotonic() + wait)
                self._note(error.message)
                return
            meant = self._find_version()  # the download may have taken long
            if not meant or not are_same(meant, version):
                return
            say(f"@{self._alias} moved: {served.uri} answers from now on, no longer {self.served.uri}")
            note_version(served.labels, self.served.labels)
            self.served = served
        self._refusal = None
        self._note("")

    def _note(self, error: str) -> None:
        """Prints an error when it is new."""
        if error and error != self._last_said:
            say(f"{error.rstrip('.')}; {self.served.uri} goes on")
        self._last_said, self.last_error = error, without_words_of_others(error)
        BEHIND.set(bool(error))

    def facts(self) -> dict[str, Any]:
        """Returns the alias's part of the answer to `/model`."""
        follow = {"last_check": self.last_check, "last_error": self.last_error or None}
        return {"alias": self._alias or None, "follow": follow if self._thread.is_alive() else None}
