"""What a step can do. Each action says which of MLflow's routes it plays; together they play all that change anything.

An argument's name says what it may be: `ARGUMENTS` in program.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checker.measuring import TAGS, is_evidence, log_metric, measure, served
from checker.rules import DATA
from checker.world import DIGEST, Answer, World

ACTIONS: dict[str, Callable[..., Any]] = {}
WEIGHTS: dict[str, int] = {}
PLAYED: set[tuple[str, str]] = set()
ARTIFACTS = "api/2.0/mlflow-artifacts"
PROMPT = {"key": "mlflow.prompt.is_prompt", "value": "true"}
BIRTH_TAGS: dict[str, list[dict[str, str]]] = {
    "none": [],
    "approved by ben": [{"key": "approved", "value": "true"}, {"key": "approved.by", "value": "ben"}],
    "dry run": [{"key": "mlflow_resnet.gate.dry_run.champion", "value": "forged"}],
    "prompt": [PROMPT],
}
FORGED_ENTRY = (
    '{"action":"promote","alias":"champion","evidence":null,"from":null,"policy":null,"sequence":1,'
    '"time":"2026-01-01T00:00:00.000+00:00","to":1,"%s":"forged","who":"forged"}'
)


def plays(*routes: str, weight: int = 1) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function an action. The weight says how often it is drawn, of the sum of all."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        ACTIONS[function.__name__], WEIGHTS[function.__name__] = function, weight
        PLAYED.update(tuple(route.split(" ", 1)) for route in routes)
        return function

    return add


# models


@plays("POST /mlflow/registered-models/create", weight=6)
def create_model(world: World, who: str, name: str, birth: str) -> Answer:
    tags = BIRTH_TAGS[birth] if birth != "approved by ben" else [{"key": HISTORY, "value": FORGED_ENTRY % DIGEST}]
    return world.send(who, "POST", "registered-models/create", name=name, tags=tags)


HISTORY = "mlflow_resnet_history_champion_000001"
MODEL_TAGS = (
    (PROMPT["key"], "true"),
    (PROMPT["key"], "false"),
    (HISTORY, FORGED_ENTRY % DIGEST),
    ("mlflow_resnet.gate", "forged"),
    ("mlflow_resnet.claim.champion", "forged"),
    ("note", "forged"),
    ("mlflow_resnet.history.champion.000001", FORGED_ENTRY % DIGEST),
    ("Mlflow_Resnet_History_Champion_000001", FORGED_ENTRY % DIGEST),
    ("mlflow_resnet_history_champion_older", "forged"),
)
VERSION_TAGS = (
    ("approved", "true"),
    ("Approved", "true"),
    ("approved", "false"),
    ("approved.by", "forged"),
    ("approved.by", "ben"),
    ("mlflow_resnet.gate.dry_run.champion", "forged"),
    *((tag.format(DATA, alias), "forged") for tag in TAGS.values() for alias in ("champion", "Champion")),
    ("note", "forged"),
)


@plays("POST /mlflow/registered-models/rename", weight=14)
def rename_model(world: World, who: str, name: str, other: str) -> Answer:
    return world.send(who, "POST", "registered-models/rename", name=name, new_name=other)


@plays("PATCH /mlflow/registered-models/update")
def describe_model(world: World, who: str, name: str) -> Answer:
    return world.send(who, "PATCH", "registered-models/update", name=name, description="new")


@plays("DELETE /mlflow/registered-models/delete", weight=4)
def delete_model(world: World, who: str, name: str) -> Answer:
    return world.send(who, "DELETE", "registered-models/delete", name=name)


@plays("POST /mlflow/registered-models/set-tag", weight=3)
def tag_model(world: World, who: str, name: str, model_tag: int) -> Answer:
    key, value = MODEL_TAGS[model_tag]
    return world.send(who, "POST", "registered-models/set-tag", name=name, key=key, value=value)


@plays("DELETE /mlflow/registered-models/delete-tag", weight=3)
def untag_model(world: World, who: str, name: str, model_tag: int) -> Answer:
    return world.send(who, "DELETE", "registered-models/delete-tag", name=name, key=MODEL_TAGS[model_tag][0])


# aliases


@plays("POST /mlflow/registered-models/alias", weight=24)
def set_alias(world: World, who: str, name: str, version: int, alias: str) -> Answer:
    return world.send(who, "POST", "registered-models/alias", name=name, version=str(version), alias=alias)


@plays("DELETE /mlflow/registered-models/alias", weight=6)
def delete_alias(world: World, who: str, name: str, alias: str) -> Answer:
    return world.send(who, "DELETE", "registered-models/alias", name=name, alias=alias)


@plays(weight=14)
def promote(world: World, who: str, name: str, version: int, alias: str) -> Answer:
    """What an honest user does: measures, and moves the alias if that is allowed."""
    model = served(world, who, name, version)
    if model and name.startswith("logged"):
        log_metric(world, who, run_of(world, who), model, model.accuracy)
    if name.startswith("approved"):
        approve(world, "ben" if who != "ben" else "ann", name, version)
    measure(world, who, name, version, alias, DATA, "")
    return set_alias(world, who, name, version, alias)


# versions


@plays("POST /mlflow/model-versions/create", weight=12)
def register(world: World, who: str, name: str, quality: int, birth: str) -> Answer:
    model_id, tags = world.model(quality).model_id, BIRTH_TAGS[birth]
    body = {"source": f"models:/{model_id}", "model_id": model_id, "tags": tags}
    return world.send(who, "POST", "model-versions/create", name=name, **body)


@plays(weight=4)
def copy_version(world: World, who: str, name: str, other: str, version: int) -> Answer:
    return world.send(who, "POST", "model-versions/create", name=name, source=f"models:/{other}/{version}")


@plays(weight=2)
def register_files(world: World, who: str, name: str, source: int) -> Answer:
    """Of a prompt, a run, a foreign place, or within another logged model's folder."""
    run_id, model = run_of(world, who), world.model(0)
    bodies: list[dict[str, Any]] = [
        {"source": "prompt-template", "tags": [PROMPT]},
        {"source": "prompt-template"},
        {"source": f"runs:/{run_id}/model", "run_id": run_id},
        {"source": "s3://bucket/model"},
        {"source": f"{model.location}/data", "model_id": model.model_id},
        {"source": model.location, "model_id": model.model_id},
        {"source": f"models:/{model.model_id}"},
    ]
    return world.send(who, "POST", "model-versions/create", name=name, **bodies[source])


@plays("PATCH /mlflow/model-versions/update")
def describe_version(world: World, who: str, name: str, version: int) -> Answer:
    return world.send(who, "PATCH", "model-versions/update", name=name, version=str(version), description="new")


@plays("POST /mlflow/model-versions/transition-stage", weight=2)
def stage(world: World, who: str, name: str, version: int) -> Answer:
    body = {"stage": "Production", "archive_existing_versions": "true"}
    return world.send(who, "POST", "model-versions/transition-stage", name=name, version=str(version), **body)


@plays("DELETE /mlflow/model-versions/delete", weight=4)
def delete_version(world: World, who: str, name: str, version: int) -> Answer:
    return world.send(who, "DELETE", "model-versions/delete", name=name, version=str(version))


@plays("POST /mlflow/model-versions/set-tag", weight=5)
def tag_version(world: World, who: str, name: str, version: int, version_tag: int) -> Answer:
    key, value = VERSION_TAGS[version_tag]
    body = {"name": name, "version": str(version), "key": key, "value": value}
    answer = world.send(who, "POST", "model-versions/set-tag", **body)
    if answer.status == 200 and key.casefold() == "approved":
        world.spoke.add(who)
        world.approvers[version].update({who} if value == "true" else ())
    return answer


@plays(weight=5)
def approve(world: World, who: str, name: str, version: int) -> Answer:
    return tag_version(world, who, name, version, version_tag=0)


@plays("DELETE /mlflow/model-versions/delete-tag", weight=4)
def untag_version(world: World, who: str, name: str, version: int, version_tag: int) -> Answer:
    key = VERSION_TAGS[version_tag][0]
    return world.send(who, "DELETE", "model-versions/delete-tag", name=name, version=str(version), key=key)


@plays(weight=18)
def write_evidence(
    world: World, who: str, name: str, version: int, alias: str, data: str, lie: str, form: int = 3
) -> str:
    return measure(world, who, name, version, alias, data, lie, form)


@plays(weight=5)
def copy_tags(world: World, who: str, name: str, version: int, other: str, other_version: int) -> None:
    """Writes another version's tags to this one, evidence too."""
    found = world.send(who, "GET", "model-versions/get", name=other, version=str(other_version)).body
    for tag in found.get("model_version", {}).get("tags", ()):
        if is_evidence(tag["key"]):
            world.said[tag["key"]].add(tag.get("value", ""))
            world.send(who, "POST", "model-versions/set-tag", name=name, version=str(version), **tag)


def run_of(world: World, who: str) -> str:
    """A run, made if there is none."""
    if not world.runs:
        made = world.insist(who, "runs/create", experiment_id=world.experiment)
        world.runs.append(made["run"]["info"]["run_id"])
    return world.runs[0]
