"""MLServer, the runtime of KServe's format `mlflow`, serves a saved model over the Open Inference Protocol."""

import base64
import json

import mlflow
import numpy as np
import pytest
import requests
from environments import install_beside_ours
from helpers import free_port, server
from rounding import assert_same_probabilities, of_auto

from mlflow_resnet.scoring.over_http.guard import REFUSED

pytestmark = pytest.mark.slow
PACKAGES = "mlserver==1.7.1", "mlserver-mlflow==1.7.1", "uvloop<0.22"  # MLServer does not start with a newer one
CLASSES = "007", "blue sky", "grün"
PROBABILITIES = [f"Scored Probabilities_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def mlserver(trained, tmp_path_factory):
    """The URL of the model in an MLServer, in whose environment mlflow_resnet is not installed."""
    folder = tmp_path_factory.mktemp("mlserver")
    commands = install_beside_ours(folder / "venv", *PACKAGES)
    model = mlflow.artifacts.download_artifacts(trained.model_uri, dst_path=str(folder / "saved"))
    settings = {"name": "colors", "implementation": "mlserver_mlflow.MLflowRuntime", "parameters": {"uri": model}}
    (folder / "model-settings.json").write_text(json.dumps(settings))
    port = free_port()
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps(ports | {"host": "127.0.0.1"}))
    url = f"http://127.0.0.1:{port}/v2/models/colors"
    command = [str(commands / "python"), str(commands / "mlserver"), "start", str(folder)]
    with server(command, f"{url}/ready", folder, 180, PYTHONPATH=""):
        yield url


def ask(url, texts, params=None, **of_input):
    """The answer to a V2 request: columns by name, or its status and text if it was refused."""
    images = {"name": "image", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts} | of_input
    body = {"inputs": [images]} | ({"parameters": params} if params else {})
    answer = requests.post(f"{url}/infer", json=body, timeout=60)
    if not answer.ok:
        return answer.status_code, answer.text
    outputs = json.loads(answer.text, parse_constant=pytest.fail)["outputs"]
    return {output["name"]: output["data"] for output in outputs}


@pytest.fixture(scope="module")
def encoded(images):
    files = sorted((images / "val").rglob("*.jpg"))
    return {file: base64.b64encode(file.read_bytes()).decode() for file in files}


def test_good_pictures_get_the_answers_of_predict(mlserver, trained, encoded):
    columns = ask(mlserver, list(encoded.values()))
    expected = mlflow.pyfunc.load_model(trained.model_uri).predict(list(map(str, encoded)))
    assert columns["Scored Labels"] == [file.parent.name for file in encoded]
    assert columns["error"] == [""] * len(encoded)
    probabilities = np.array([columns[name] for name in PROBABILITIES]).T
    assert_same_probabilities(probabilities, expected[PROBABILITIES], of_auto())


def test_a_bad_picture_and_a_path_among_them_cost_only_their_rows(mlserver, encoded):
    good = next(iter(encoded.values()))
    broken = base64.b64encode(base64.b64decode(good)[:200]).decode()
    columns = ask(mlserver, [good, broken, "/etc/passwd", "/etc/nope", good])
    assert columns["Scored Labels"] == ["007", "", "", "", "007"]
    assert [bool(error) for error in columns["error"]] == [False, True, True, True, False]
    assert columns["error"][2:4] == [REFUSED] * 2
    for name in PROBABILITIES:
        assert [value is None for value in columns[name]] == [False, True, True, True, False]


def test_parameters_of_predict_and_of_the_protocol(mlserver, encoded):
    texts = [next(iter(encoded.values())), "nothing"]
    protocol = {"content_type": "pd", "binary_data_output": False, "priority": 1}
    columns = ask(mlserver, texts, {"top_k": 1, **protocol}, parameters={"content_type": "str"})
    assert set(columns) == {"image", "Scored Labels", "Top 1 Label", "Top 1 Probability", "error"}
    assert columns["Top 1 Label"] == ["007", ""]
    assert columns["Top 1 Probability"][1] is None
    status, text = ask(mlserver, texts, {"topk": 1})
    assert status >= 400
    assert "unknown params" in text
