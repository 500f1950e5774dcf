"""A training with a tracking server that wants a password: it is in no file, artifact, param, tag or line."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from helpers import TINY, flags, mlflow_server, run_cli

SECRET = "s3cr3t-of-mine"

pytestmark = pytest.mark.slow


def test_the_password_of_the_tracking_server_is_nowhere(tmp_path: Path, images: Path) -> None:
    with mlflow_server(tmp_path / "server") as url:
        uri = url.replace("http://", f"http://me:{SECRET}@")
        options = flags(TINY | {"checkpoint_minutes": 5, "checkpoint_dir": str(tmp_path / "ck")})
        options += ["--checkpoint-mirror", "artifacts", "--registered-model-name", "colors"]
        arguments = ["train", "--train-dir", images / "train", *options]
        done = run_cli(*arguments, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stderr
        again = run_cli(*arguments, MLFLOW_TRACKING_URI=uri.replace(SECRET, "changed-since"))
        assert "this training is complete" in again.stderr
        scored = run_cli(
            *("evaluate", "--model-uri", "models:/colors/1", "--image-dir", images / "val"), MLFLOW_TRACKING_URI=uri
        )
        assert scored.returncode == 0, scored.stderr
        client = mlflow.MlflowClient(url)
        (version,) = client.search_model_versions("name = 'colors'")
        assert client.list_artifacts(version.run_id, "checkpoints")
    for finished in (done, again, scored):
        assert SECRET not in finished.stdout + finished.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training.json" and path.parent.name == "checkpoints" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
