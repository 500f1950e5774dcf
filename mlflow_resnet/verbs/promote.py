"""Moves an alias to a version that was measured to be no worse."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_resnet.errors import ClassMismatchError
from mlflow_resnet.evaluation.evaluation import evaluate_directory as evaluate_images
from mlflow_resnet.evaluation.pairing import compare_hits
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.promote import PromoteOptions
from mlflow_resnet.registry import aliases, evidence, promotion, versions
from mlflow_resnet.registry.abilities import require_aliases
from mlflow_resnet.registry.evidence import Evidence, MeasuredChampion
from mlflow_resnet.tracking.data import scan_dataset
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.verbs.frame import describe_gate, open_predictor

Measured = tuple[dict[str, Any], np.ndarray]  # what evidence says of a version, and which images it is right on


def promote(options: PromoteOptions) -> promotion.Comparison:
    """Moves the alias to a version that, on the given images, is not worse than the present one by more than max_drop.

    Both are measured, and what was measured becomes evidence on the candidate, signed with the key in
    MLFLOW_RESNET_GATE_KEY if there is one. A gate in the server has rules of its own.

    Raises:
        PromotionRefusedError: if it is worse, or the gate refuses.
        MlflowResnetError: for anything else a user can cause.
    """
    with end_attached_run():
        check_directories(options.image_dir)
        check_servers(registry=True)
        candidate = versions.resolve(options.model_uri)
        if not options.measure_only:
            require_aliases("promote", candidate.name, options.alias)
        model = versions.fetch_registered_model(candidate.name)
        champion = aliases.version_with(model, options.alias)
        dataset = scan_dataset(options.image_dir, options, "evaluation")
        measured = measure(options, candidate, dataset)
        against = measure_champion(options, candidate, champion, dataset) if champion else None
        proof = derive_evidence(options, candidate.name, measured, against, dataset)
        is_guarded = aliases.is_guarded(MlflowClient(), model, options.alias)
        comparison = promotion.Comparison(candidate, options.metric, proof, is_guarded)
        if options.measure_only:
            promotion.write_down(comparison)
        else:
            promotion.promote_candidate(comparison, options.max_drop)
    return comparison


def measure(options: PromoteOptions, version: ModelVersion, dataset: ImageDirectoryDataset) -> Measured:
    """Evaluates a registered version on the images. The digest is of what was loaded, which is what was logged."""
    uri = versions.format_version_uri(version)
    predictor = open_predictor(uri, options)
    evaluation = evaluate_images(predictor, dataset.directory, options.batch_size, uri)
    promotion.pick_metric(evaluation.metrics, options.metric)
    numbers = {name: evidence.round_measurement(value) for name, value in evaluation.metrics.items()}
    facts = {
        "version": int(version.version),
        "model_id": predictor.model_id,
        "model_sha256": predictor.model_sha256,
        "metrics": {name: value for name, value in numbers.items() if math.isfinite(value)},
    }
    return facts, evaluation.hits


def measure_champion(
    options: PromoteOptions, candidate: ModelVersion, champion: int, dataset: ImageDirectoryDataset
) -> Measured:
    """Evaluates the version that has the alias; raises an error for classes that it does not know."""
    uri = f"models:/{candidate.name}/{champion}"
    try:
        return measure(options, versions.resolve(uri), dataset)
    except ClassMismatchError as error:
        owner = f"the present @{options.alias}, {uri}"
        advice = (
            f"{versions.format_version_uri(candidate)} knows them, so the two cannot be compared on these images. "
            f"Give images of classes that both know; or, to replace @{options.alias} without a comparison, "
            f"take the alias away first: "
            f"mlflow.MlflowClient().delete_registered_model_alias({candidate.name!r}, {options.alias!r})"
        )
        raise ClassMismatchError(dataset.directory.source, error.extra, error.known, owner, advice) from None


def derive_evidence(
    options: PromoteOptions, name: str, measured: Measured, against: Measured | None, dataset: ImageDirectoryDataset
) -> Evidence:
    """Returns the evidence of a candidate and of the champion, signed if the environment has a key."""
    champion = None
    facts, hits = measured
    if against:
        pairing = compare_hits(against[1], hits)
        champion = MeasuredChampion(
            **against[0],
            only_champion_right=pairing.only_first,
            only_candidate_right=pairing.only_second,
            p_value=evidence.round_measurement(pairing.p_value),
        )
    proof = Evidence(
        **facts,
        name=name,
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
        images=len(dataset.directory),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        measured_by=aliases.find_local_user(),
        alias=options.alias,
        champion=champion,
        signature="",
        format=evidence.EVIDENCE_FORMAT,
    )
    key = evidence.read_signing_key()
    return evidence.sign_evidence(proof, key) if key else proof


def summarize_promote(result: promotion.Comparison, options: PromoteOptions) -> str:
    version = versions.format_version_uri(result.candidate)
    if options.measure_only:
        signed = "signed" if result.evidence.signature else "not signed"
        return in_lines([str(result), f"{version} has the evidence ({signed}); @{options.alias} stays where it is"])
    return in_lines([str(result), f"@{options.alias} now points to {version}", describe_gate(result.is_guarded)])
