"""The version that has an alias, and why."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion

from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.champion import ChampionOptions
from mlflow_resnet.registry import aliases, versions
from mlflow_resnet.registry.alias_history import HistoryEntry, newest
from mlflow_resnet.registry.evidence import Evidence
from mlflow_resnet.registry.promotion import read_evidence
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.verbs.frame import describe_gate


@dataclass(frozen=True)
class Champion:
    """The version that has an alias."""

    version: ModelVersion
    alias: str
    since: HistoryEntry | None  # the entry of the history that made it champion; None: made so by other means
    evidence: Evidence | None  # why, if that is known and can be read
    is_guarded: bool  # by a gate in the server, which decides what becomes champion


def champion(options: ChampionOptions) -> Champion:
    """The version that has the alias, and why.

    Raises:
        InvalidModelError: if there is no such registered model, or no version with the alias.
    """
    check_servers(registry=True)
    version = versions.resolve(f"models:/{options.name}@{options.alias}")
    model = versions.fetch_registered_model(options.name)
    last = newest(model.tags, options.alias)
    since = last if last and last.after == int(version.version) else None
    proof = read_evidence(version, since.evidence) if since and since.evidence else None
    return Champion(version, options.alias, since, proof, aliases.has_gate(model, options.alias))


def summarize_champion(result: Champion, options: ChampionOptions) -> str:
    version, since, proof = result.version, result.since, result.evidence
    lines = [f"@{result.alias} of {version.name} is version {version.version}"]
    lines.append(f"since     {since.time}, {since.action} by {since.who}" if since else "since     not known")
    if proof:
        signed = "signed" if proof.signature else "not signed"
        data = f"{proof.images} images of {proof.dataset_name} (digest {proof.dataset_digest})"
        lines.append(f"measured  on {data} at {proof.measured_at} by {proof.measured_by}, {signed}")
        lines += [f"          {metric:20}{value:.4f}" for metric, value in proof.metrics.items()]
    return in_lines([*lines, describe_gate(result.is_guarded)])
