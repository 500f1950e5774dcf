"""The saved model in an environment made by the steps of MLflow's own Dockerfile, without mlflow_resnet."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import requests
from environments import make_environment
from helpers import free_port, server

IN_THE_IMAGE = "/opt/ml/model"
OF_THE_SYSTEM = ("apt-get", "printf", "chmod", "rm")  # what only an image needs


def instructions(dockerfile):
    """(instruction, rest) of every line."""
    lines = re.sub(r"\\\n", " ", dockerfile.read_text()).splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]


@pytest.mark.slow
def test_the_image_that_mlflow_describes_serves_the_model_where_mlflow_resnet_is_not_installed(
    trained, images, tmp_path, monkeypatch
):
    context = tmp_path / "image"
    command = [sys.executable, "-m", "mlflow", "models", "generate-dockerfile", "--env-manager", "local"]
    command += ["--model-uri", trained.model_uri, "--output-directory", context]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = instructions(context / "Dockerfile")
    assert ("FROM", f"python:{sys.version.split()[0]}-slim") in steps
    ((source, target),) = [rest.split() for name, rest in steps if name == "COPY"]
    model = context / source
    assert target == IN_THE_IMAGE
    assert (model / "MLmodel").is_file()

    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = tmp_path / "venv"
    python = make_environment(environment, (model / "requirements.txt").read_text().splitlines())
    path = {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    runs = [rest for name, rest in steps if name == "RUN" and rest.split()[0] not in OF_THE_SYSTEM]
    assert [run.split()[0] for run in runs] == ["pip", "python"]
    for run in runs:
        run = run.replace(IN_THE_IMAGE, str(model))
        done = subprocess.run(["bash", "-c", run], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    installed = subprocess.run([python, "-c", "import mlflow_resnet"], cwd=tmp_path, capture_output=True)
    assert installed.returncode != 0, "mlflow_resnet must not be installed there"

    picture = images / "val" / "007" / "00.jpg"
    body = {"inputs": [base64.b64encode(picture.read_bytes()).decode()]}
    port = free_port()
    (entrypoint,) = [json.loads(rest) for name, rest in steps if name == "ENTRYPOINT"]
    assert entrypoint[:2] == ["python", "-c"]
    here = f"C.MODEL_PATH = {str(model)!r}; C.DEFAULT_INFERENCE_SERVER_PORT = {port}; C._serve("
    command = [str(python), "-c", entrypoint[2].replace("C._serve(", here)]
    env = path | {"DISABLE_NGINX": "true", "MLFLOW_MODELS_WORKERS": "2", "MLFLOW_DISABLE_ENV_CREATION": "true"}
    with server(command, f"http://127.0.0.1:{port}/ping", tmp_path, 180, **env):
        answers = [requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60) for _ in range(8)]
    assert {answer.json()["predictions"][0]["Scored Labels"] for answer in answers} == {"007"}

    (tmp_path / "input.json").write_text(json.dumps(body))
    command = f"mlflow models predict -m {shlex.quote(str(model))} -i input.json --env-manager local"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True
    )
    assert '"Scored Labels": "007"' in result.stdout, result.stderr
