"""Who is champion: measuring and promoting a version, rolling back, and what happened before."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_resnet.errors import ClassMismatchError, InvalidModelError, PromotionRefusedError
from mlflow_resnet.evaluation.evaluate import Evaluation
from mlflow_resnet.evaluation.evaluate import evaluate as evaluate_images
from mlflow_resnet.evaluation.pairing import hits_paired
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.model.stored import MODEL_SHA256
from mlflow_resnet.options import PromoteOptions, RollbackOptions
from mlflow_resnet.pipeline import load_predictor
from mlflow_resnet.registry import aliases, evidence, promotion, versions
from mlflow_resnet.registry.evidence import Evidence, MeasuredChampion
from mlflow_resnet.registry.history import ROLLBACK, Entry, Move, champions, entries, newest, shown
from mlflow_resnet.tracking.data import scanned_dataset
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.run import attached_run_ends_with
from mlflow_resnet.tracking.server import check_servers


@dataclass(frozen=True)
class Measured:
    """A registered version and what it makes of labeled images.

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


@dataclass(frozen=True)
class Champion:
    """The version that has an alias.

    Attributes:
        since: the entry of the history that made it champion; None if it was made so by other means.
        evidence: why, if that is known.
        is_guarded: whether a gate in the server decides who becomes champion.
    """

    version: ModelVersion
    alias: str
    since: Entry | None
    evidence: Evidence | None
    is_guarded: bool


def promote(options: PromoteOptions) -> promotion.Comparison:
    """Moves the alias to a version that, on the given images, is not worse than the present one by more than max_drop.

    Both are measured, and what was measured becomes evidence on the candidate, signed with the key in
    MLFLOW_RESNET_GATE_KEY if there is one. A gate in the server has rules of its own.

    Raises:
        PromotionRefusedError: if it is worse, or the gate refuses.
        MlflowResnetError: for anything else a user can cause.
    """
    with attached_run_ends_with():
        check_directories(options.image_dir)
        check_servers(registry=True)
        candidate = versions.resolve(options.model_uri)
        model = versions.registered_model(candidate.name)
        champion = aliases.version_with(model, options.alias)
        dataset = scanned_dataset(options.image_dir, options, "evaluation")
        measured = measure(options, candidate, dataset)
        against = measure_champion(options, candidate, champion, dataset) if champion else None
        proof = signed_if_possible(evidence_of(measured, against, dataset, options.alias))
        is_guarded = aliases.is_guarded(MlflowClient(), model, options.alias)
        comparison = promotion.Comparison(candidate, options.metric, proof, is_guarded)
        if options.measure_only:
            promotion.write_down(comparison)
        else:
            promotion.promote(comparison, options.max_drop)
    return comparison


def measure(options: PromoteOptions, version: ModelVersion, dataset: ImageDirectoryDataset) -> Measured:
    """What a registered version makes of the images."""
    uri = versions.uri_of(version)
    predictor = load_predictor(uri, options)
    evaluation = evaluate_images(predictor, dataset.directory, options.batch_size, uri)
    promotion.value_of(evaluation.metrics, options.metric)
    return Measured(version, predictor.model_id, predictor.model_sha256, evaluation)


def measure_champion(
    options: PromoteOptions, candidate: ModelVersion, champion: int, dataset: ImageDirectoryDataset
) -> Measured:
    """What the version that has the alias makes of the images, which the candidate knows the classes of."""
    uri = f"models:/{candidate.name}/{champion}"
    try:
        return measure(options, versions.resolve(uri), dataset)
    except ClassMismatchError as error:
        owner = f"the present @{options.alias}, {uri}"
        advice = (
            f"{versions.uri_of(candidate)} knows them, so the two cannot be compared on these images. Give images of "
            f"classes that both know; or, to replace @{options.alias} without a comparison, take the alias away first: "
            f"mlflow.MlflowClient().delete_registered_model_alias({candidate.name!r}, {options.alias!r})"
        )
        raise ClassMismatchError(dataset.directory.source, error.extra, error.known, owner, advice) from None


def evidence_of(measured: Measured, against: Measured | None, dataset: ImageDirectoryDataset, alias: str) -> Evidence:
    """What is written down of a candidate and the champion that it was compared with."""
    return Evidence(
        name=measured.version.name,
        version=int(measured.version.version),
        model_id=measured.model_id,
        model_sha256=measured.model_sha256,
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
        images=len(dataset.directory),
        metrics=measured.metrics,
        measured_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        measured_by=aliases.user(),
        alias=alias,
        champion=champion_of(measured, against) if against else None,
        signature="",
        format=evidence.FORMAT,
    )


def champion_of(measured: Measured, against: Measured) -> MeasuredChampion:
    pairing = hits_paired(against.evaluation.hits, measured.evaluation.hits)
    return MeasuredChampion(
        version=int(against.version.version),
        model_id=against.model_id,
        model_sha256=against.model_sha256,
        metrics=against.metrics,
        only_champion_right=pairing.only_first,
        only_candidate_right=pairing.only_second,
        p_value=pairing.p_value,
    )


def signed_if_possible(proof: Evidence) -> Evidence:
    """With the key of the environment, if there is one."""
    key = evidence.key_of_environment()
    return evidence.signed(proof, key) if key else proof


def rollback(options: RollbackOptions) -> Move:
    """Points the alias to the champion before the present one.

    Raises:
        PromotionRefusedError: if the history knows of none, the version is gone, a gate refuses, or somebody else moves
            the alias meanwhile.
    """
    with attached_run_ends_with():
        check_servers(registry=True)
        model = versions.registered_model(options.name)
        now = aliases.version_with(model, options.alias)
        path = champions(entries(model.tags, options.alias))
        if now is None or now not in path:
            raise no_way_back(options.name, options.alias, f"the history does not know {shown(now)}, which has it")
        earlier = path[: len(path) - 1 - path[::-1].index(now)]
        if not earlier:
            raise no_way_back(options.name, options.alias, f"there was no champion before {shown(now)}")
        version = ready(options.name, earlier[-1], options.alias)
        logged = versions.find_logged_model(version)
        digest = logged.params.get(MODEL_SHA256, "") if logged else ""
        move = Move(options.name, options.alias, now, earlier[-1], ROLLBACK, digest)
        aliases.move_alias(move)
    return move


def no_way_back(name: str, alias: str, problem: str) -> PromotionRefusedError:
    return PromotionRefusedError(
        f"@{alias} of {name} stays where it is: {problem}. `mlflow-resnet history --name {shlex.quote(name)}` shows "
        "what happened; promote a version instead."
    )


def ready(name: str, version: int, alias: str) -> ModelVersion:
    """The version, if it is there and can be loaded."""
    try:
        found = versions.resolve(f"models:/{name}/{version}")
    except InvalidModelError:
        raise no_way_back(name, alias, f"version {version}, the champion before, was deleted") from None
    if found.status != "READY":
        raise no_way_back(name, alias, f"version {version}, the champion before, is {found.status}, not READY")
    return found


def history(name: str, alias: str = "") -> list[Entry]:
    """The moves of an alias, or of all of them, oldest first.

    Raises:
        InvalidModelError: if there is no such registered model.
    """
    check_servers(registry=True)
    return entries(versions.registered_model(name).tags, alias or None)


def champion(name: str, alias: str = "champion") -> Champion:
    """The version that has the alias, and why.

    Raises:
        InvalidModelError: if there is no such registered model, or no version with the alias.
    """
    check_servers(registry=True)
    version = versions.resolve(f"models:/{name}@{alias}")
    model = versions.registered_model(name)
    last = newest(model.tags, alias)
    since = last if last and last.after == int(version.version) else None
    return Champion(version, alias, since, proof_in(version, since), aliases.has_gate(model, alias))


def proof_in(version: ModelVersion, since: Entry | None) -> Evidence | None:
    """The evidence that a version was made champion with, if it can be read."""
    text = version.tags.get(since.evidence, "") if since and since.evidence else ""
    try:
        return evidence.from_older_text(text) if text else None
    except evidence.EvidenceError:
        return None
