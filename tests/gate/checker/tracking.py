"""The other half of what a step can do: experiments, runs, logged models and their files; and the policy."""

from __future__ import annotations

from typing import Any

from checker.actions import ARTIFACTS, plays, run_of
from checker.measuring import log_metric
from checker.world import ACCURACY, DIGEST, Answer, World


@plays(
    "POST /mlflow/experiments/create",
    "POST /mlflow/experiments/update",
    "POST /mlflow/experiments/set-experiment-tag",
    "POST /mlflow/experiments/delete-experiment-tag",
)
def change_experiment(world: World, who: str) -> None:
    own = {"experiment_id": world.experiment}
    world.send(who, "POST", "experiments/update", **own, new_name=f"renamed {world.number}")
    world.send(who, "POST", "experiments/set-experiment-tag", **own, key="note", value="new")
    world.send(who, "POST", "experiments/delete-experiment-tag", **own, key="note")


@plays("POST /mlflow/experiments/delete", "POST /mlflow/experiments/restore")
def delete_experiment(world: World, who: str) -> None:
    """And back."""
    world.send(who, "POST", "experiments/delete", experiment_id=world.experiment)
    world.send(who, "POST", "experiments/restore", experiment_id=world.experiment)


@plays(
    "POST /mlflow/runs/create",
    "POST /mlflow/runs/update",
    "POST /mlflow/runs/log-parameter",
    "POST /mlflow/runs/set-tag",
    "POST /mlflow/runs/delete-tag",
    "POST /mlflow/runs/log-batch",
    "POST /mlflow/runs/log-inputs",
    "POST /mlflow/runs/outputs",
    "POST /mlflow/runs/log-model",
)
def change_run(world: World, who: str, quality: int) -> None:
    own, model_id = {"run_id": run_of(world, who)}, world.model(quality).model_id
    world.send(who, "POST", "runs/update", **own, status="FINISHED")
    world.send(who, "POST", "runs/log-parameter", **own, key="weights_sha256", value="forged")
    world.send(who, "POST", "runs/set-tag", **own, key="note", value="new")
    world.send(who, "POST", "runs/delete-tag", **own, key="note")
    world.send(who, "POST", "runs/log-batch", **own, params=[{"key": DIGEST, "value": "forged"}])
    world.send(who, "POST", "runs/log-inputs", **own, models=[{"model_id": model_id}])
    world.send(who, "POST", "runs/outputs", **own, models=[{"model_id": model_id, "step": 0}])
    world.send(who, "POST", "runs/log-model", **own, model_json="{}")


@plays("POST /mlflow/runs/delete", "POST /mlflow/runs/restore")
def delete_run(world: World, who: str) -> None:
    own = {"run_id": run_of(world, who)}
    world.send(who, "POST", "runs/delete", **own)
    world.send(who, "POST", "runs/restore", **own)


@plays("POST /mlflow/runs/log-metric", weight=4)
def log_number(world: World, who: str, quality: int, number: float) -> None:
    log_metric(world, who, run_of(world, who), world.model(quality), number)


@plays("POST /mlflow/logged-models", "PATCH /mlflow/logged-models/<model_id>")
def log_model(world: World, who: str, quality: int) -> None:
    """Another one, which no step registers but by its number."""
    found = world.log_model(who, quality)
    with world.logging:
        world.models[len(world.models) + len(ACCURACY)] = found


@plays(weight=2)
def finish_model(world: World, who: str, quality: int, status: str) -> Answer:
    model_id = world.model(quality).model_id
    return world.send(who, "PATCH", f"logged-models/{model_id}", model_id=model_id, status=status)


@plays("DELETE /mlflow/logged-models/<model_id>")
def delete_logged_model(world: World, who: str, quality: int) -> Answer:
    return world.send(who, "DELETE", f"logged-models/{world.model(quality).model_id}")


@plays("POST /mlflow/logged-models/<model_id>/params", weight=2)
def change_params(world: World, who: str, quality: int) -> Answer:
    params = [{"key": DIGEST, "value": "forged"}]
    return world.send(who, "POST", f"logged-models/{world.model(quality).model_id}/params", params=params)


@plays("PATCH /mlflow/logged-models/<model_id>/tags", "DELETE /mlflow/logged-models/<model_id>/tags/<tag_key>")
def tag_logged_model(world: World, who: str, quality: int) -> None:
    path = f"logged-models/{world.model(quality).model_id}/tags"
    world.send(who, "PATCH", path, tags=[{"key": DIGEST, "value": "forged"}])
    world.send(who, "DELETE", f"{path}/{DIGEST}")


@plays("PUT /mlflow-artifacts/artifacts/<path:artifact_path>", weight=2)
def put_file(world: World, who: str, quality: int, file: str) -> Answer:
    """Over the artifact proxy, which anybody may use who may edit the experiment."""
    return world.send(who, "PUT", f"artifacts/{folder_of(world, quality)}/{file}", api=ARTIFACTS, data=b"forged")


@plays("DELETE /mlflow-artifacts/artifacts/<path:artifact_path>")
def delete_file(world: World, who: str, quality: int, file: str) -> Answer:
    return world.send(who, "DELETE", f"artifacts/{folder_of(world, quality)}/{file}", api=ARTIFACTS)


@plays(
    "POST /mlflow-artifacts/mpu/create/<path:artifact_path>",
    "POST /mlflow-artifacts/mpu/complete/<path:artifact_path>",
    "POST /mlflow-artifacts/mpu/abort/<path:artifact_path>",
    "POST /mlflow/artifacts/presigned-upload-url",
    "POST /mlflow/upload-artifact",
)
def put_file_otherwise(world: World, who: str, quality: int, file: str) -> None:
    path, run_id = f"{folder_of(world, quality)}/{file}", run_of(world, who)
    for step in ("create", "complete", "abort"):
        body: dict[str, Any] = {"path": path, "num_parts": 1, "upload_id": "x", "parts": []}
        world.send(who, "POST", f"mpu/{step}/{path}", api=ARTIFACTS, **body)
    world.send(who, "POST", "artifacts/presigned-upload-url", run_id=run_id, path=file)
    upload = f"upload-artifact?run_uuid={run_id}&path={file}"
    world.send(who, "POST", upload, api="ajax-api/2.0/mlflow", data=b"forged")


def folder_of(world: World, quality: int) -> str:
    """Of a logged model, as the artifact proxy calls it."""
    return world.model(quality).location.removeprefix("mlflow-artifacts:/").strip("/")
