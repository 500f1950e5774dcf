"""Moves an alias to a version that was measured to be no worse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_resnet.errors import ClassMismatchError
from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.evaluation.evaluation import evaluate_directory as evaluate_images
from mlflow_resnet.evaluation.pairing import compare_hits
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.promote import PromoteOptions
from mlflow_resnet.registry import aliases, evidence, promotion, versions
from mlflow_resnet.registry.evidence import Evidence, MeasuredChampion
from mlflow_resnet.tracking.data import scan_dataset
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.verbs.frame import describe_gate, open_predictor


@dataclass(frozen=True)
class Measured:
    """A registered version and its predictions for a labeled directory.

    Attributes:
        model_id: of its logged model, as the server says; empty if it is none.
        model_sha256: of what was loaded and measured, which is what was logged.
    """

    version: ModelVersion
    model_id: str
    model_sha256: str
    evaluation: Evaluation

    @property
    def metrics(self) -> dict[str, float]:
        return {name: value for name, value in self.evaluation.metrics.items() if math.isfinite(value)}


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
        model = versions.fetch_registered_model(candidate.name)
        champion = aliases.version_with(model, options.alias)
        dataset = scan_dataset(options.image_dir, options, "evaluation")
        measured = measure(options, candidate, dataset)
        against = measure_champion(options, candidate, champion, dataset) if champion else None
        proof = derive_evidence(measured, against, dataset, options.alias)
        is_guarded = aliases.is_guarded(MlflowClient(), model, options.alias)
        comparison = promotion.Comparison(candidate, options.metric, proof, is_guarded)
        if options.measure_only:
            promotion.write_down(comparison)
        else:
            promotion.promote_candidate(comparison, options.max_drop)
    return comparison


def measure(options: PromoteOptions, version: ModelVersion, dataset: ImageDirectoryDataset) -> Measured:
    """Evaluates a registered version on the images."""
    uri = versions.format_version_uri(version)
    predictor = open_predictor(uri, options)
    evaluation = evaluate_images(predictor, dataset.directory, options.batch_size, uri)
    promotion.pick_metric(evaluation.metrics, options.metric)
    return Measured(version, predictor.model_id, predictor.model_sha256, evaluation)


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
    measured: Measured, against: Measured | None, dataset: ImageDirectoryDataset, alias: str
) -> Evidence:
    """Returns the evidence of a candidate and of the champion, signed if the environment has a key."""
    champion = None
    if against:
        pairing = compare_hits(against.evaluation.hits, measured.evaluation.hits)
        champion = MeasuredChampion(
            version=int(against.version.version),
            model_id=against.model_id,
            model_sha256=against.model_sha256,
            metrics=against.metrics,
            only_champion_right=pairing.only_first,
            only_candidate_right=pairing.only_second,
            p_value=pairing.p_value,
        )
    proof = Evidence(
        name=measured.version.name,
        version=int(measured.version.version),
        model_id=measured.model_id,
        model_sha256=measured.model_sha256,
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
        images=len(dataset.directory),
        metrics=measured.metrics,
        measured_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        measured_by=aliases.find_local_user(),
        alias=alias,
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
