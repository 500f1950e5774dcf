"""Evidence, genuine and not, as texts in tags. Written without the package's own code, which is what is tested."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime, timedelta, timezone
from typing import Any

from checker.rules import DATA
from checker.world import DIGEST, KEY, LoggedModel, World

TAGS = {2: "mlflow_resnet.evidence.{}.{}", 3: "mlflow_resnet_evidence_{}_for_{}"}  # by the format of the text
NEWEST = max(TAGS)
LIES = ("", "", "", "unsigned", "better", "champion was bad", "no champion", "digest", "model", "old", "key", "broken")
LIES += ("elsewhere",)


def to_text(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def tag_of(facts: dict[str, Any]) -> str:
    return TAGS[facts["format"]].format(facts["dataset_digest"], facts["alias"])


def is_evidence(key: str) -> bool:
    return key.startswith(("mlflow_resnet.evidence.", "mlflow_resnet_evidence_"))


def shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """As a text of format 3 has them: with short names, and each metric beside the champion's."""
    names = {"model_id": "model", DIGEST: "sha256", "dataset_name": "data", "dataset_digest": "digest"}
    names |= {"measured_at": "at", "measured_by": "by"}
    short = {names.get(name, name): value for name, value in facts.items()}
    champion, metrics = facts["champion"], {"top1_acc": "top1_accuracy", "log_loss": "log_loss"}
    both = [facts, champion] if champion else [facts]
    short["metrics"] = {name: [each["metrics"][metric] for each in both] for name, metric in metrics.items()}
    if champion:
        numbers = {"lost": "only_champion_right", "won": "only_candidate_right", "p": "p_value", "version": "version"}
        numbers |= {"model": "model_id", "sha256": DIGEST}
        short["champion"] = {name: champion[field] for name, field in numbers.items()}
    return short


def signature_of(facts: dict[str, Any], key: str) -> str:
    unsigned = to_text({name: value for name, value in facts.items() if name != "signature"})
    return hmac.new(key.encode(), unsigned.encode(), hashlib.sha256).hexdigest()


def is_signed(facts: dict[str, Any]) -> bool:
    return hmac.compare_digest(facts["signature"], signature_of(facts, KEY))


def metrics_of(accuracy: float) -> dict[str, float]:
    return {"top1_accuracy": accuracy, "log_loss": 0.25}


def served(world: World, who: str, name: str, version: int) -> LoggedModel | None:
    """The logged model of a version, as the server says it."""
    found = world.send(who, "GET", "model-versions/get-download-uri", name=name, version=str(version))
    return world.model_at(found.body.get("artifact_uri", ""))


def measure(
    world: World, who: str, name: str, version: int, alias: str, data: str, lie: str, form: int = NEWEST
) -> str:
    """Writes what was measured into a tag, with or without a lie; returns the tag's name, empty if there was nothing.

    Only the truth is signed with the key, which is why whoever holds an alias that asks for it must be good.
    """
    model = served(world, who, name, version)
    if model is None:
        return ""
    aliases = {each["alias"]: int(each["version"]) for each in world.get_model(who, name).get("aliases", ())}
    holder = aliases.get(alias)
    compared = served(world, who, name, holder) if holder and lie != "no champion" else None
    moment = datetime.now(timezone.utc) - timedelta(days=100 if lie == "old" else 0)
    facts = {
        "name": name,
        "version": version,
        "model_id": "m-another" if lie == "model" else model.model_id,
        DIGEST: "another" if lie == "digest" else model.digest,
        "dataset_name": "val",
        "dataset_digest": data,
        "images": 100,
        "metrics": metrics_of(0.99 if lie == "better" else model.accuracy),
        "measured_at": moment.isoformat(),
        "measured_by": who,
        "alias": alias,
        "champion": compared and champion_of(holder, compared, 0.1 if lie == "champion was bad" else compared.accuracy),
        "signature": "",
        "format": form,
    }
    if lie in ("", "old", "key"):
        facts["signature"] = signature_of(facts, "guessed" if lie == "key" else KEY)
    return write(world, who, name, version, facts, lie)


def champion_of(version: int, model: LoggedModel, accuracy: float) -> dict[str, Any]:
    counts = {"only_champion_right": 3, "only_candidate_right": 4, "p_value": 1.0}
    return {
        "version": version,
        "model_id": model.model_id,
        DIGEST: model.digest,
        "metrics": metrics_of(accuracy),
    } | counts


def write(world: World, who: str, name: str, version: int, facts: dict[str, Any], lie: str) -> str:
    """Writes evidence into its tag, or into that of another format."""
    key, form = tag_of(facts), facts["format"]
    if lie == "elsewhere":
        key = tag_of(facts | {"format": 5 - form})
    text = to_text(facts if form == 2 else shortened(facts))
    if lie == "broken":
        text = text[:99]
    else:
        world.facts[text] = facts
    if lie in ("", "old"):
        world.genuine.add(text)
    world.said[key].add(text)
    world.send(who, "POST", "model-versions/set-tag", name=name, version=str(version), key=key, value=text)
    return key


def log_metric(world: World, who: str, run_id: str, model: LoggedModel, value: float, data: str = DATA) -> None:
    """Any writer may log any number."""
    world.logged[model.model_id, data].add(value)
    moment = int(datetime.now(timezone.utc).timestamp() * 1000)
    body = {"run_id": run_id, "key": "top1_accuracy", "value": value, "timestamp": moment, "step": 0}
    more = {"model_id": model.model_id, "dataset_name": "val", "dataset_digest": data}
    world.send(who, "POST", "runs/log-metric", **body, **more)
