"""The saved model in a virtual environment built from its own requirements, without mlflow_resnet."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import requests
from helpers import free_port, server


@pytest.mark.slow
def test_serve_and_predict_where_mlflow_resnet_is_not_installed(trained, images, tmp_path):
    model = Path(mlflow.artifacts.download_artifacts(trained.model_uri, dst_path=tmp_path / "download"))
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    bin_ = environment / "bin"
    command = [bin_ / "python", "-m", "pip", "install", "-q", "-r", model / "requirements.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    installed = subprocess.run([bin_ / "python", "-c", "import mlflow_resnet"], cwd=tmp_path, capture_output=True)
    assert installed.returncode != 0, "mlflow_resnet must not be installed there"

    picture = images / "val" / "007" / "00.jpg"
    encoded = base64.b64encode(picture.read_bytes()).decode()
    path = {"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}
    port = free_port()
    command = [str(bin_ / "mlflow"), "models", "serve", "-m", str(model), "--port", str(port), "--env-manager", "local"]
    with server(command, f"http://127.0.0.1:{port}/ping", tmp_path, **path):
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json={"inputs": [encoded]}, timeout=60)
    assert answer.json()["predictions"][0]["Scored Labels"] == "007"

    (tmp_path / "input.json").write_text(json.dumps({"inputs": [encoded]}))
    command = [
        bin_ / "mlflow",
        "models",
        "predict",
        "-m",
        model,
        "-i",
        tmp_path / "input.json",
        "--env-manager",
        "local",
    ]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True)
    assert '"Scored Labels": "007"' in result.stdout, result.stderr
