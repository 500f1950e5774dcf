"""What a version was measured to be: text in a tag of the version, which may be signed.

Written by whoever measures (`promote`) and read by whoever decides, the gate store in the server too. So nothing here
needs torch, and nothing asks a server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.io.untrusted import parse_json

TAG = "mlflow_resnet.evidence."
KEY_VARIABLE = "MLFLOW_RESNET_GATE_KEY"
FORMAT = 2  # 1 spoke of the weights only
SHOWN = (1, FORMAT)  # to people; what decides takes the newest only
ROUNDING = 1e-9  # of what a drop may be: 0.95 - 0.94 is a little more than 0.01
MOST = 10**12  # images; more than that is no count
LARGEST = sys.float_info.max


class EvidenceError(MlflowResnetError):
    """A text is not the measurement of a version."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"not evidence of mlflow_resnet: {problem}. Measure the version again.")


@dataclass(frozen=True)
class MeasuredChampion:
    """The version that held the alias while the candidate was measured, on the same images.

    Attributes:
        only_champion_right: images; with `only_candidate_right` what McNemar's test needs.
        p_value: of that test, two-sided and exact.
    """

    version: int
    model_id: str
    model_sha256: str
    metrics: Mapping[str, float]
    only_champion_right: int
    only_candidate_right: int
    p_value: float


@dataclass(frozen=True)
class Evidence:
    """One measurement of a version.

    Attributes:
        model_sha256: of all that decides what the version answers, as it was loaded and measured; see
            `mlflow_resnet.model.stored`.
        metrics: by the names of `mlflow_resnet.evaluation.metrics`, such as top1_accuracy; finite.
        measured_at: UTC, in ISO format with its offset.
        champion: None if nobody held the alias.
        signature: hexadecimal HMAC-SHA256, see `signed`; empty if there is none.
    """

    name: str
    version: int
    model_id: str
    model_sha256: str
    dataset_name: str
    dataset_digest: str
    images: int
    metrics: Mapping[str, float]
    measured_at: str
    measured_by: str
    alias: str
    champion: MeasuredChampion | None
    signature: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        problems = list(problems_of(self))
        if self.champion:
            problems += [f"champion's {problem}" for problem in problems_of(self.champion)]
        if problems:
            raise EvidenceError("; ".join(problems))

    @property
    def tag(self) -> str:
        """The name of the tag of the version that holds this text."""
        return f"{TAG}{self.dataset_digest}.{self.alias}"


def problems_of(facts: Evidence | MeasuredChampion) -> list[str]:
    """What is wrong with the fields of one of the two."""
    found = []
    for field in dataclasses.fields(facts):
        value = getattr(facts, field.name)
        fits, wanted = CHECKS.get(str(field.type), (is_champion, "fields or null"))
        if not fits(value):
            found.append(f"{field.name} is {value!r}; expected {wanted}")
    if isinstance(facts, Evidence) and not found:
        if facts.format not in SHOWN:
            found.append(f"format is {facts.format}; expected {FORMAT}, update mlflow_resnet")
        if not has_offset(facts.measured_at):
            wanted = "a time with an offset, 2026-01-31T12:00:00+00:00"
            found.append(f"measured_at is {facts.measured_at!r}; expected {wanted}")
    return found


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST


def is_finite(value: object) -> bool:
    """Whether it is a number, neither NaN nor infinite, nor an integer that no float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def are_finite(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(is_finite, value.values()))


def is_champion(value: object) -> bool:
    return value is None or isinstance(value, MeasuredChampion)


def has_offset(time: str) -> bool:
    """Whether it is a time in ISO format that says how far from UTC it is."""
    try:
        return datetime.fromisoformat(time).utcoffset() is not None
    except ValueError:
        return False


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {  # by the type of a field
    "str": (is_text, "text"),
    "int": (is_count, "an integer from 0"),
    "float": (is_finite, "a finite number"),
    "Mapping[str, float]": (are_finite, "names with finite numbers"),
}


def drop(candidate: float, champion: float, lower_is_better: bool) -> float:
    """By how much the candidate's value of a metric is worse, in the metric's unit; negative if it is better."""
    return candidate - champion if lower_is_better else champion - candidate


def to_text(evidence: Evidence) -> str:
    """Canonical JSON: one text for one value."""
    return canonical(dataclasses.asdict(evidence))


def canonical(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_text(text: str) -> Evidence:
    """Reads what `to_text` wrote.

    Raises:
        EvidenceError: if it is something else; names every field that is missing, unknown or of another kind.
    """
    facts = parse_facts(text)
    if isinstance(facts, dict) and facts.get("format") == 1:
        raise EvidenceError("its format is 1, which does not say all that was measured")
    return build_evidence(facts)


def from_older_text(text: str) -> Evidence:
    """Reads evidence of any format, to show it: that of format 1 has empty digests, and nothing may be decided by it.

    Raises:
        EvidenceError: as `from_text` does.
    """
    facts = parse_facts(text)
    if isinstance(facts, dict) and facts.get("format") == 1:
        for each in (facts, facts.get("champion")):
            if isinstance(each, dict) and each.pop("weights_sha256", None) is not None:
                each["model_sha256"] = ""
    return build_evidence(facts)


def parse_facts(text: str) -> Any:
    """What the text of a tag says."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise EvidenceError(f"not JSON ({error})") from None


def build_evidence(facts: Any) -> Evidence:
    """The fields of evidence as the value itself."""
    champion = facts.get("champion") if isinstance(facts, dict) else None
    require_fields(facts, Evidence, "")
    if champion is not None:
        require_fields(champion, MeasuredChampion, "champion's ")
        facts["champion"] = MeasuredChampion(**champion)
    return Evidence(**facts)


def require_fields(facts: object, kind: type[Any], whose: str) -> None:
    """Raises unless `facts` has all of the fields of `kind` and no others."""
    if not isinstance(facts, dict):
        raise EvidenceError(f"{whose or 'the text '}is {type(facts).__name__}; expected an object with fields")
    names = {field.name for field in dataclasses.fields(kind)}
    problems = [f"{whose}field {name} is missing" for name in sorted(names - facts.keys())]
    problems += [f"{whose}field {name!r} is unknown" for name in sorted(facts.keys() - names)]
    if problems:
        raise EvidenceError("; ".join(problems))


def key_of_environment() -> str:
    """The key that evidence is signed with; "" if there is none, or nothing but blanks."""
    key = os.environ.get(KEY_VARIABLE, "")
    return key if key.strip() else ""


def signature_of(evidence: Evidence, key: str) -> str:
    """Hexadecimal HMAC-SHA256 of all fields but the signature."""
    facts = dataclasses.asdict(evidence)
    del facts["signature"]
    return hmac.new(key.encode(), canonical(facts).encode(), hashlib.sha256).hexdigest()


def signed(evidence: Evidence, key: str) -> Evidence:
    """The same evidence with a signature, which only who has the key can make."""
    return dataclasses.replace(evidence, signature=signature_of(evidence, key))


def verified(evidence: Evidence, key: str) -> bool:
    """Whether the signature was made with this key, of exactly these facts."""
    return hmac.compare_digest(evidence.signature.encode(), signature_of(evidence, key).encode())
