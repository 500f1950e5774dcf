"""A real `mlflow server` with the gate store, and what it takes to promote there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests
from helpers import free_port, server
from mlflow import MlflowClient

from mlflow_resnet.registry import alias_history, evidence

# The rules of most tests; models have names of their own.
RULES = """
- models: "colors*"
  alias: champion
  require:
    metrics: {top1_accuracy: {min: 0.8}}
    dataset_digest: aaaa000011112222
  not_worse: {metric: top1_accuracy, by: 0.02}
- models: "tried*"
  alias: champion
  mode: dry-run
  require: {metrics: {top1_accuracy: {min: 0.8}}}
- models: "approved*"
  alias: champion
  approval: {tag: approved}
- models: "filed*"
  alias: champion
  require: {signature: true, flavor: mlflow_resnet}
- models: "removable*"
  alias: champion
  remove: allowed
"""
DIGEST = "aaaa000011112222"


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        return self.body.get("message", "")


@dataclass
class Gate:
    """A server, spoken to as anybody with curl can."""

    url: str
    folder: Path
    policy: Path
    auth: tuple[str, str] | None = None
    made: set[str] = field(default_factory=set)  # models

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.url)

    def send(self, method: str, path: str, workspace: str = "", **body: Any) -> Answer:
        """A raw request to the registry."""
        headers = {"X-MLFLOW-WORKSPACE": workspace} if workspace else {}
        sent = {"params": body} if method == "GET" else {"json": body}
        url = f"{self.url}/api/2.0/mlflow/{path}"
        answer = requests.request(method, url, auth=self.auth, headers=headers, timeout=60, **sent)
        return Answer(answer.status_code, answer.json() if answer.content else {})

    def done(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self.send(method, path, **body)
        assert answer.status == 200, answer
        return answer.body

    def logged_model(self, weights: str, digest: str = DIGEST, **metrics: float) -> str:
        """The id of a logged model that is ready; it has no files."""
        params = [{"key": "model_sha256", "value": weights}]
        body = {"experiment_id": "0", "name": "model", "params": params}
        model_id = self.done("POST", "logged-models", **body)["model"]["info"]["model_id"]
        self.done("PATCH", f"logged-models/{model_id}", model_id=model_id, status="LOGGED_MODEL_READY")
        return model_id

    def register(self, name: str, model_id: str = "", **fields: Any) -> Version:
        """A new version of a model, which is made if there is none; of a new logged model if none is named."""
        if name not in self.made:
            self.send("POST", "registered-models/create", name=name)
            self.made.add(name)
        weights = os.urandom(32).hex()
        model_id = model_id or self.logged_model(weights)
        own = {} if "source" in fields else {"source": f"models:/{model_id}", "model_id": model_id}
        body = {"name": name} | own | fields
        found = self.done("POST", "model-versions/create", **body)["model_version"]
        return Version(name, int(found["version"]), model_id, weights)

    def measure(
        self, version: Version, champion: Version | None = None, alias: str = "champion", **changes: Any
    ) -> None:
        """Writes evidence."""
        self.tag(version, *tag_of(proof(version, champion, alias, **changes)))

    def tag(self, version: Version, key: str, value: str) -> None:
        self.done("POST", "model-versions/set-tag", **version.key, key=key, value=value)

    def move(self, version: Version, alias: str = "champion") -> Answer:
        return self.send("POST", "registered-models/alias", **version.key, alias=alias)

    def promoted(self, name: str, champion: Version | None = None, **changes: Any) -> Version:
        """A new version that is measured and has the alias."""
        version = self.register(name)
        self.measure(version, champion, **changes)
        moved = self.move(version)
        assert moved.status == 200, moved
        return version

    def model(self, name: str) -> dict[str, Any]:
        return self.done("GET", "registered-models/get", name=name)["registered_model"]

    def champion(self, name: str, alias: str = "champion") -> int | None:
        aliases = {each["alias"]: int(each["version"]) for each in self.model(name).get("aliases", ())}
        return aliases.get(alias)

    def history(self, name: str, alias: str = "champion") -> list[alias_history.HistoryEntry]:
        tags = {tag["key"]: tag["value"] for tag in self.model(name).get("tags", ())}
        return alias_history.entries(tags, alias)

    def tags(self, version: Version) -> dict[str, str]:
        found = self.done("GET", "model-versions/get", **version.key)["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", ())}


@dataclass(frozen=True)
class Version:
    name: str
    number: int
    model_id: str
    weights: str

    @property
    def key(self) -> dict[str, str]:
        return {"name": self.name, "version": str(self.number)}


def proof(
    version: Version, champion: Version | None = None, alias: str = "champion", **changes: Any
) -> evidence.Evidence:
    """Evidence that passes the rules of `colors`, unless it is changed."""
    measured = champion and evidence.MeasuredChampion(
        version=champion.number,
        model_id=champion.model_id,
        model_sha256=champion.weights,
        metrics={"top1_accuracy": 0.9, "log_loss": 0.3},
        only_champion_right=3,
        only_candidate_right=4,
        p_value=1.0,
    )
    facts = evidence.Evidence(
        name=version.name,
        version=version.number,
        model_id=version.model_id,
        model_sha256=version.weights,
        dataset_name="val",
        dataset_digest=DIGEST,
        images=100,
        metrics={"top1_accuracy": 0.9, "log_loss": 0.3},
        measured_at=datetime.now(timezone.utc).isoformat(),
        measured_by="somebody",
        alias=alias,
        champion=measured,
        signature="",
        format=evidence.EVIDENCE_FORMAT,
    )
    return facts.model_copy(update=changes)


def tag_of(facts: evidence.Evidence) -> tuple[str, str]:
    return facts.tag, evidence.to_text(facts)


def command(port: int, database: str, scheme: str, workers: int, *more: str, python: str = sys.executable) -> list[str]:
    stores = ["--backend-store-uri", database, "--registry-store-uri", scheme + database]
    run = [python, "-m", "mlflow", "server", "--port", str(port), "--workers", str(workers)]
    return [*run, *stores, *more]


@contextlib.contextmanager
def gate_server(
    folder: Path,
    policy: str,
    database: str = "",
    workers: int = 4,
    more: tuple[str, ...] = (),
    python: str = sys.executable,
    **env: str,
) -> Iterator[Gate]:
    """A server in a folder; with sqlite, if no other database is named."""
    port, path = free_port(), folder / "policy.yaml"
    path.write_text(policy)
    url = f"http://127.0.0.1:{port}"
    fewer_processes = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    env = {"MLFLOW_RESNET_GATE_POLICY": str(path)} | fewer_processes | env
    line = command(port, database or f"sqlite:///{folder}/mlflow.db", "resnet-gate+", workers, *more, python=python)
    with server(line, f"{url}/health", folder, seconds=300, **env):
        yield Gate(url, folder, path)
