"""A promotion that is killed between any two of its writes leaves nothing false, and the same command completes it."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import torch
from harness import Row
from helpers import mlflow_server, run_cli, start_cli
from mlflow import MlflowClient
from proxy import faulty

import mlflow_resnet
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.aliases import CLAIM_TAG
from mlflow_resnet.registry.evidence import from_text
from mlflow_resnet.registry.names import is_evidence_key
from mlflow_resnet.registry.promotion import PROMOTION_KEYS

pytestmark = pytest.mark.faults

Rows = Callable[[str, str], Row]
WRITE = re.compile(r"/model-versions/set-tag|/registered-models/(alias|set-tag|delete-tag)")
WORSE, BETTER = 1, 2  # versions


@dataclass
class Registry:
    """A server, and what it takes to promote a version of a model there."""

    url: str
    models: dict[int, str]
    images: Path

    def register(self, name: str, champion: int) -> None:
        """Both versions, one of them with the alias."""
        for version in sorted(self.models):
            mlflow.register_model(self.models[version], name)
        self.client.set_registered_model_alias(name, "champion", str(champion))

    def command(self, name: str, candidate: int) -> list[object]:
        model = ["--model-uri", f"models:/{name}/{candidate}"]
        return ["promote", *model, "--image-dir", self.images / "val", "--metric", "log_loss"]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.url)

    def champion(self, name: str) -> int:
        """The version with the alias, which is a good one."""
        version = self.client.get_model_version_by_alias(name, "champion")
        assert version.status == "READY"
        return int(version.version)

    def tags(self, name: str, version: int) -> dict[str, str]:
        tags = self.client.get_model_version(name, str(version)).tags
        promoted = {
            key.removeprefix(PROMOTION_KEYS[0]): value
            for key, value in tags.items()
            if key.startswith(PROMOTION_KEYS[0])
        }
        measured = [from_text(value) for key, value in tags.items() if is_evidence_key(key)]
        return promoted | {"measured": str([(each.version, each.metrics, each.champion) for each in measured])}

    def moves(self, name: str) -> list[tuple[int | None, int | None]]:
        """What the history says; nothing else is left on the model but a claim, which is no bar to the next command."""
        tags = self.client.get_registered_model(name).tags
        known = alias_history.entries(tags)
        assert tags.keys() - {CLAIM_TAG + "champion"} == {entry.tag for entry in known}
        return [(entry.before, entry.after) for entry in known]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, fault_images: Path) -> Iterator[Registry]:
    """One that has two models: one is sure of what is mostly wrong, the other one of nothing."""
    before = mlflow.get_tracking_uri()
    with mlflow_server(tmp_path_factory.mktemp("server"), seconds=300) as url:
        mlflow.set_tracking_uri(url)
        models = {version: mlflow_resnet.log_model(classifier(version)).model_uri for version in (WORSE, BETTER)}
        yield Registry(url, models, fault_images)
        mlflow.set_tracking_uri(before)


def classifier(version: int) -> mlflow_resnet.ImageClassifier:
    preprocessing = mlflow_resnet.Preprocessing(resize_size=36, crop_size=32)
    made = mlflow_resnet.new_classifier("resnet18", ("007", "blue sky", "grün"), preprocessing)
    torch.nn.init.zeros_(made.network.fc.weight)
    made.network.fc.bias.data = torch.tensor([9.0 if version == WORSE else 0.0, 0.0, 0.0])
    return made


def kill_at_write(number: int, arrives: bool, registry: Registry, command: list[object]) -> None:
    """Kills the command as it sends its write of this number, which then arrives at the server or does not."""
    seen = []

    def spoil(method: str, path: str) -> str:
        seen.append(path) if method != "GET" and WRITE.search(path) else None
        if len(seen) < number:
            return ""
        process.kill()
        return "" if arrives else "503"

    with (
        faulty(registry.url, spoil) as proxy,
        start_cli(*command, env=os.environ | {"MLFLOW_TRACKING_URI": proxy.url}) as process,
    ):
        process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert len(seen) == number


# The writes: the result is pending, the evidence, 7 facts; then the claim, the alias, the history, the end of the claim
# and the result, or only the result if it is refused.
@pytest.mark.parametrize(
    ("kind", "champion", "candidate", "code", "writes"),
    [("done", WORSE, BETTER, 0, 14), ("refused", BETTER, WORSE, 3, 10)],
)
def test_killed_between_writes(
    kind: str, champion: int, candidate: int, code: int, writes: int, registry: Registry, row: Rows
) -> None:
    found = row(f"SIGKILL in a promotion that is to be {kind}", "alias READY, no false tag; the same command completes")
    registry.register(f"unhurt {kind}", champion)
    unhurt = run_cli(*registry.command(f"unhurt {kind}", candidate), MLFLOW_TRACKING_URI=registry.url)
    assert unhurt.returncode == code, unhurt.stderr
    assert registry.champion(f"unhurt {kind}") == BETTER
    moments = [(number, arrives) for number in range(1, writes + 1) for arrives in (False, True)]
    *others, before_last, last = moments[:-1]  # after the very last one nothing is left to do
    moments = [last, before_last, *random.Random(kind).sample(others, len(others))]
    for number, arrives in moments[: int(os.environ.get("KILLS", 5))]:
        name = f"hurt {kind} {number} {arrives}"
        registry.register(name, champion)
        kill_at_write(number, arrives, registry, registry.command(name, candidate))
        result = registry.tags(name, candidate).get("result", "")
        assert registry.champion(name) in (champion, BETTER)
        assert result in ("", "pending", "promoted" if registry.champion(name) == candidate else "refused")
        again = run_cli(*registry.command(name, candidate), MLFLOW_TRACKING_URI=registry.url)
        assert again.returncode == code, again.stderr
        assert registry.champion(name) == BETTER
        assert registry.tags(name, candidate) == registry.tags(f"unhurt {kind}", candidate)
        assert registry.moves(name) == registry.moves(f"unhurt {kind}") == ([(champion, BETTER)] if code == 0 else [])
        found.add("alias and tags as if nothing had happened")
