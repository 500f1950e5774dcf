"""Which programs may name files to a model: the operator's, and no server, whoever has written it."""

import base64
import json
import os
import subprocess
import sys

import pytest
import requests
from environments import install_beside_ours
from helpers import ROOT, free_port, server, upload

from mlflow_resnet import new_classifier
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.scoring.over_http.guard import REFUSED
from mlflow_resnet.scoring.pyfunc import ScoringModel

LOAD = "import mlflow, os; model = mlflow.pyfunc.load_model(os.environ['MODEL'])"
STARLETTE = f"""
{LOAD}
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

async def predict(request):
    return JSONResponse(model.predict(await request.json()).to_dict("records"))

app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/ping", Response("yes"))])
"""
FLASK = f"""
{LOAD}
from flask import Flask, jsonify, request

app = Flask(__name__)

@app.get("/ping")
def ping():
    return "yes"

@app.post("/predict")
def predict():
    return jsonify(model.predict(request.get_json()).to_dict("records"))
"""
PIPE = f"""
import json, multiprocessing, os
from http.server import BaseHTTPRequestHandler, HTTPServer

def work(pipe):
    {LOAD}
    while True:
        pipe.send(model.predict(pipe.recv()).to_dict("records"))

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        pipe.send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(json.dumps(pipe.recv()).encode())

    def do_GET(self):
        self.answer(b"yes")

    def answer(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    pipe, end = multiprocessing.Pipe()
    multiprocessing.Process(target=work, args=(end,), daemon=True).start()
    HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
BENTOML = """
import bentoml, mlflow, os

@bentoml.service(workers=2, metrics={"enabled": False})
class Service:
    def __init__(self):
        self.model = mlflow.pyfunc.load_model(os.environ["MODEL"])

    @bentoml.api(route="/predict")
    def predict(self, images: list[str]) -> list[dict]:
        return self.model.predict(images).to_dict("records")
"""
LITSERVE = """
import litserve, mlflow, os

class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = mlflow.pyfunc.load_model(os.environ["MODEL"])

    def predict(self, images):
        return self.model.predict(images).to_dict("records")

if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu").run(port=int(os.environ["PORT"]), generate_client_file=False)
"""
RAY_SERVE = """
import mlflow, os, ray, time
from ray import serve

@serve.deployment
class Deployment:
    def __init__(self):
        self.model = mlflow.pyfunc.load_model(os.environ["MODEL"])

    async def __call__(self, request):
        if request.method == "GET":
            return "yes"
        return self.model.predict(await request.json()).to_dict("records")

ray.init(num_cpus=1, include_dashboard=False)
serve.start(http_options={"port": int(os.environ["PORT"])})
serve.run(Deployment.bind())
time.sleep(600)
"""
KSERVE = """
import kserve, mlflow, os

class Served(kserve.Model):
    def load(self):
        self.model = mlflow.pyfunc.load_model(os.environ["MODEL"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": self.model.predict(payload["instances"]).to_dict("records")}

if __name__ == "__main__":
    served = Served("colors")
    served.load()
    kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False).start([served])
"""


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def assert_closed(trained, images, s3, prefix, tmp_path):
    """Starts a server of `source` by a command, and asks it for files that are there and files that are not."""
    picture = images / "val" / "007" / "00.jpg"
    in_s3 = f"{upload(s3, picture.parent, prefix)}/{picture.name}"
    names = [str(picture), str(picture.parent), "/etc/passwd", "/etc/nope", f"file://{picture}", in_s3]
    asked = [base64.b64encode(picture.read_bytes()).decode(), *names]

    def check(source, command, health="/ping", place="/predict", wrapped=("", "")):
        (tmp_path / "app.py").write_text(source)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        env = {"MODEL": trained.model_uri, "PORT": str(port), "PYTHONPATH": str(ROOT)}
        with server([part.format(port=port) for part in command], url + health, tmp_path, 120, **env):
            for _ in range(4):  # several workers
                answer = requests.post(url + place, json={wrapped[0]: asked} if wrapped[0] else asked, timeout=60)
                rows = json.loads(answer.text, parse_constant=refuse_constant)
                good, *refused = rows[wrapped[1]] if wrapped[1] else rows
                assert (good["Scored Labels"], good["error"]) == ("007", "")
                assert [row.pop("image") for row in refused] == [f"image[{number}]" for number in range(1, len(asked))]
                nothing = dict.fromkeys(name for name in good if name.startswith("Scored Probabilities_"))
                assert refused == [{"Scored Labels": "", **nothing, "error": REFUSED}] * len(names)
        (log,) = tmp_path.glob("server-*.log")
        assert "set MLFLOW_RESNET_SERVING=false" in log.read_text()  # what the operator is told, and callers are not

    return check


UVICORN = [sys.executable, "-m", "uvicorn", "app:app", "--port", "{port}"]
GUNICORN = [sys.executable, "-m", "gunicorn", "app:app", "--bind", "127.0.0.1:{port}", "--workers", "2"]


def test_an_unknown_server_of_several_workers_opens_no_paths(assert_closed):
    assert_closed(STARLETTE, [*UVICORN, "--workers", "2"])


@pytest.mark.slow
def test_a_forking_wsgi_server_opens_no_paths(assert_closed):
    assert_closed(FLASK, [*GUNICORN, "--preload"])


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(("source", "command"), [(STARLETTE, UVICORN), (FLASK, GUNICORN)])
def test_other_ways_to_start_them_open_no_paths(source, command, assert_closed):
    assert_closed(source, command)


@pytest.mark.slow
def test_a_worker_of_a_server_that_itself_has_no_socket_opens_no_paths(assert_closed):
    assert_closed(PIPE, [sys.executable, "app.py"])


@pytest.mark.parametrize("variable", ["AZUREML_MODEL_DIR", "SAGEMAKER_BIND_TO_PORT", "IS_IN_DB_MODEL_SERVING_ENV"])
def test_where_a_platform_deploys_models_no_paths_are_opened_unless_a_switch_says_so(variable, images, monkeypatch):
    model = ScoringModel(Predictor(new_classifier("resnet18", ("a", "b"), Preprocessing(36, 32))))
    monkeypatch.setenv(variable, "true")
    assert model.predict([str(images / "val")])["error"].tolist() == [REFUSED]
    monkeypatch.setenv("MLFLOW_RESNET_SERVING", "false")
    assert set(model.predict([str(images / "val")])["error"]) == {""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "source", "command", "form"),
    [
        pytest.param(
            "waitress",
            FLASK,
            ["waitress-serve", "--listen", "127.0.0.1:{port}", "app:app"],
            {},
            marks=pytest.mark.thorough,
        ),
        (
            "bentoml",
            BENTOML,
            ["bentoml", "serve", "app:Service", "--port", "{port}"],
            {"health": "/readyz", "wrapped": ("images", "")},
        ),
        ("litserve", LITSERVE, ["python", "app.py"], {"health": "/health"}),
        ("ray[serve]", RAY_SERVE, ["python", "app.py"], {}),
        (
            "kserve",
            KSERVE,
            ["python", "app.py"],
            {"health": "/", "place": "/v1/models/colors:predict", "wrapped": ("instances", "predictions")},
        ),
    ],
    ids=["waitress", "bentoml", "litserve", "ray serve", "kserve"],
)
def test_known_servers_open_no_paths(package, source, command, form, assert_closed, tmp_path):
    program, *arguments = command
    commands = install_beside_ours(tmp_path / "venv", package)
    assert_closed(source, [str(commands / program), *arguments], **form)


SCRIPT = f"""
import http.server, json, multiprocessing, subprocess, sys, threading
from concurrent.futures import ProcessPoolExecutor

import torch
from mlflow_resnet.scoring.over_http.servers import explain_server

{LOAD}

def count_scored():
    return int((model.predict(sys.argv[1])["error"] == "").sum())

if __name__ == "__main__":
    found = {{"alone": count_scored()}}
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0"]
    other = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    manager = multiprocessing.Manager()
    batches = iter(torch.utils.data.DataLoader(range(100), num_workers=2))
    next(batches)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        found["child"] = pool.submit(explain_server).result()
    found["beside others"] = count_scored()
    other.kill()
    serving = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    found["server"] = count_scored()
    serving.server_close()
    found["stopped"] = count_scored()
    os.environ["MLFLOW_RESNET_SERVING"] = "false"
    found["switched"] = count_scored()
    print(json.dumps(found))
"""


def test_a_script_may_name_folders_until_it_becomes_a_server_or_says_that_it_is_none(trained, images, tmp_path):
    folder = images / "val" / "007"
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(folder)]
    env = os.environ | {"MODEL": trained.model_uri, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    files = len(list(folder.iterdir()))
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "alone": files,
        "child": "",
        "beside others": files,
        "server": 0,
        "stopped": 0,  # it may still answer its last requests
        "switched": files,
    }
    (warning,) = [line for line in done.stderr.splitlines() if "MLFLOW_RESNET_SERVING" in line]
    assert "it listens on port" in warning


NOTEBOOK = """
import json
import os
import sys

from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel()
shown = []
show = lambda message: shown.append(message["content"]) if message["msg_type"] in ("stream", "error") else None
for cell in json.load(sys.stdin):
    client.execute_interactive(cell, timeout=100, output_hook=show)
client.shutdown()
print(json.dumps([content.get("text") or content["evalue"] for content in shown if content.get("name") != "stderr"]))
"""


@pytest.mark.slow
def test_a_notebook_may_name_folders_until_it_starts_a_server(trained, images, tmp_path):
    python = install_beside_ours(tmp_path / "venv", "ipykernel") / "python"
    folder = images / "val" / "007"
    ask = f"print((model.predict({str(folder)!r})['error'] == '').sum())"
    debug = "import debugpy; address = debugpy.listen(('127.0.0.1', 0))"
    listen = "import socketserver; server = socketserver.TCPServer(('127.0.0.1', 0), socketserver.BaseRequestHandler)"
    cells = [LOAD, ask, debug, ask, listen, ask]
    env = os.environ | {"MODEL": trained.model_uri, "PYTHONPATH": str(ROOT)}
    command = [python, "-c", NOTEBOOK]
    done = subprocess.run(command, cwd=tmp_path, env=env, input=json.dumps(cells), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = len(list(folder.iterdir()))
    assert [text.strip() for text in json.loads(done.stdout)] == [str(files), str(files), "0"]
