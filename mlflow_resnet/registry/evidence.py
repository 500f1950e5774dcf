"""Measurements of a version as signed or unsigned text in its tags.

Written by whoever measures (`promote`) and read by whoever decides, the gate store in the server too. So nothing here
needs torch, and nothing asks a server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.io.untrusted import parse_fields, shorten_value
from mlflow_resnet.registry.names import format_evidence_keys
from mlflow_resnet.registry.validation import Number, Record, expect, list_problems

KEY_VARIABLE = "MLFLOW_RESNET_GATE_KEY"
EVIDENCE_FORMAT = 3  # 2 had long names and a key of before; 1 spoke of the weights only
LONG_FORMAT = 2
EVIDENCE_ROUNDING = 1e-9  # of what a drop may be: 0.95 - 0.94 is a little more than 0.01
MEASURED_DIGITS = 10
LARGEST_COUNT = 10**12  # images; more than that is no count


class EvidenceError(MlflowResnetError):
    """A text is not the measurement of a version."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"not evidence of mlflow_resnet: {problem}. Measure the version again.")


def require_offset(time: str) -> str:
    """Refuses all but a time in ISO format that says how far from UTC it is."""
    if datetime.fromisoformat(time).utcoffset() is None:
        raise ValueError
    return time


Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT), expect("an integer from 0")]
MetricValue = Annotated[Number, expect("a finite number")]
Time = Annotated[str, AfterValidator(require_offset), expect("a time with an offset, 2026-01-31T12:00:00+00:00")]
EvidenceFormat = Annotated[int, Field(ge=1, le=EVIDENCE_FORMAT), expect(f"{EVIDENCE_FORMAT}, update mlflow_resnet")]


class MeasuredChampion(Record):
    """The version that held the alias while the candidate was measured, on the same images.

    Attributes:
        only_champion_right: images; with `only_candidate_right` what McNemar's test needs.
        p_value: of that test, two-sided and exact.
    """

    version: Count
    model_id: str
    model_sha256: str
    metrics: Mapping[str, MetricValue]
    only_champion_right: Count
    only_candidate_right: Count
    p_value: MetricValue


class Evidence(Record):
    """One measurement of a version. Raises EvidenceError, which names every field that is not as it should be.

    Attributes:
        model_sha256: of all that decides what the version answers, as it was loaded and measured; see
            `mlflow_resnet.model.storage`.
        metrics: by the names of `mlflow_resnet.evaluation.metrics`, such as top1_accuracy; finite.
        measured_at: UTC, in ISO format with its offset.
        champion: None if nobody held the alias.
        signature: hexadecimal HMAC-SHA256, see `sign_evidence`; empty if there is none.
    """

    name: str
    version: Count
    model_id: str
    model_sha256: str
    dataset_name: str
    dataset_digest: str
    images: Count
    metrics: Mapping[str, MetricValue]
    measured_at: Time
    measured_by: str
    alias: str
    champion: MeasuredChampion | None
    signature: str
    format: EvidenceFormat

    @model_validator(mode="wrap")
    @classmethod
    def explain_mistakes(cls, facts: Any, handler: Callable[[Any], Evidence]) -> Evidence:
        try:
            return handler(facts)
        except ValidationError as error:
            raise EvidenceError("; ".join(list_problems(error))) from None

    @property
    def tag(self) -> str:
        """The key of the tag of the version that holds this text."""
        today, before = format_evidence_keys(self.dataset_digest, self.alias)
        return before if self.format <= LONG_FORMAT else today


def round_measurement(value: float) -> float:
    """Returns as much of a number as evidence says, so that its text is short; less would change what is decided."""
    return float(f"{value:.{MEASURED_DIGITS}g}")


def compute_drop(candidate: float, champion: float, lower_is_better: bool) -> float:
    """By how much the candidate's value of a metric is worse, in the metric's unit; negative if it is better."""
    return candidate - champion if lower_is_better else champion - candidate


def to_text(evidence: Evidence) -> str:
    """Canonical JSON: one text for one value, short enough for a tag of any registry if no name in it is long."""
    facts = evidence.model_dump()
    return format_canonical(facts if evidence.format <= LONG_FORMAT else shorten_facts(facts))


def shorten_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields with short names; each pair of values, the champion's last, has all metrics that it is of."""
    short, champion = rename_fields(facts, SHORT_NAMES), facts["champion"]
    others = champion["metrics"] if champion else {}
    names: dict[str, list[str]] = {}
    pairs: dict[str, list[float | None]] = {}
    for name in sorted(facts["metrics"].keys() | others.keys()):
        pair = [facts["metrics"].get(name), *([others.get(name)] if champion else [])]
        key = repr(pair)  # of 1 and 1.0, which are equal, signatures differ
        names.setdefault(key, []).append(rename_words(name, SHORT_WORDS))
        pairs[key] = pair
    short["metrics"] = {" ".join(names[key]): pair for key, pair in pairs.items()}
    if champion:
        short["champion"] = rename_fields(champion, SHORT_NAMES)
        del short["champion"]["metrics"]
    return short


def expand_facts(short: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `shorten_facts`. What is not as that returns it stays, to be told, or raises EvidenceError."""
    facts, champion = rename_fields(short, LONG_NAMES), short.get("champion")
    values = list_values(short.get("metrics", {}), 2 if isinstance(champion, dict) else 1)
    if "metrics" in short:
        facts["metrics"] = {name: pair[0] for name, pair in values if pair[0] is not None}
    if isinstance(champion, dict):
        facts["champion"] = rename_fields(champion, LONG_NAMES)
        facts["champion"]["metrics"] = {name: pair[1] for name, pair in values if pair[1] is not None}
    return facts


def list_values(pairs: Any, width: int) -> list[tuple[str, list[Any]]]:
    """Returns the metrics of `shorten_facts` one by one, with the candidate's value and the champion's, if any."""
    if not isinstance(pairs, dict) or not all(isinstance(pair, list) and len(pair) == width for pair in pairs.values()):
        raise EvidenceError(f"metrics is {shorten_value(pairs)}; expected names with lists of {width}")
    values = [(rename_words(name, LONG_WORDS), pair) for names, pair in pairs.items() for name in names.split(" ")]
    if len(dict(values)) != len(values):
        raise EvidenceError(f"metrics is {shorten_value(pairs)}; expected each name once")
    return values


def rename_fields(facts: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the fields by other names; one whose name would be taken twice is told as unknown."""
    return {names.get(name, f"{name} " if name in names.values() else name): value for name, value in facts.items()}


def rename_words(name: str, words: Mapping[str, str]) -> str:
    return "_".join(words.get(word, word) for word in name.split("_"))


SHORT_NAMES = {
    "model_id": "model",
    "model_sha256": "sha256",
    "dataset_name": "data",
    "dataset_digest": "digest",
    "measured_at": "at",
    "measured_by": "by",
    "only_champion_right": "lost",
    "only_candidate_right": "won",
    "p_value": "p",
}
LONG_NAMES = {short: name for name, short in SHORT_NAMES.items()}
SHORT_WORDS = {"accuracy": "acc", "balanced": "bal", "precision": "prec", "recall": "rec", "weighted": "wtd"}
LONG_WORDS = {short: word for word, short in SHORT_WORDS.items()}


def format_canonical(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_text(text: str) -> Evidence:
    """Reads what `to_text` wrote.

    Raises:
        EvidenceError: if it is something else; names every field that is missing, unknown or of another kind.
    """
    facts = parse_facts(text)
    if facts.get("format") == 1:
        raise EvidenceError("its format is 1, which does not say all that was measured")
    return Evidence.model_validate(facts)


def from_older_text(text: str) -> Evidence:
    """Reads evidence of any format, to show it: that of format 1 has empty digests, and nothing may be decided by it.

    Raises:
        EvidenceError: as `from_text` does.
    """
    facts = parse_facts(text)
    if facts.get("format") == 1:
        for each in (facts, facts.get("champion")):
            if isinstance(each, dict) and each.pop("weights_sha256", None) is not None:
                each["model_sha256"] = ""
    return Evidence.model_validate(facts)


def parse_facts(text: str) -> dict[str, Any]:
    """Parses the text of a tag into fields with their long names."""
    try:
        facts = parse_fields(text)
    except ValueError as error:
        raise EvidenceError(f"not JSON with fields ({error})") from None
    return facts if facts.get("format") in (1, LONG_FORMAT) else expand_facts(facts)


def read_signing_key() -> str:
    """Returns the signing key in the environment; "" if there is none."""
    key = os.environ.get(KEY_VARIABLE, "")
    return key if key.strip() else ""


def sign_evidence(evidence: Evidence, key: str) -> Evidence:
    """Returns the same evidence with a signature by `key`: hexadecimal HMAC-SHA256 of all fields but the signature."""
    facts = format_canonical(evidence.model_dump(exclude={"signature"}))
    signature = hmac.new(key.encode(), facts.encode(), hashlib.sha256).hexdigest()
    return evidence.model_copy(update={"signature": signature})


def has_valid_signature(evidence: Evidence, key: str) -> bool:
    """Returns whether the signature is by this key, of exactly these facts."""
    return hmac.compare_digest(evidence.signature.encode(), sign_evidence(evidence, key).signature.encode())
