"""Azure ML's deployment without a script of one's own: its server, and its scoring script made after a description."""

import base64
import json
import os
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
from environments import install, make_environment
from helpers import TINY, free_port, server
from packaging.requirements import Requirement
from rounding import assert_same_probabilities, of_auto

import mlflow_resnet
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.flavor import get_default_pip_requirements
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.scoring.over_http.guard import REFUSED
from mlflow_resnet.verbs.train import train

PACKAGES = {"azureml-inference-server-http", "azureml-ai-monitoring", "inference-schema"}
# What the script of Azure does with a model whose input is a table: it takes the types of a request from the input
# example and the signature, and gives rows. Here nothing is caught: an example that cannot be read is an error.
SCRIPT = """
import json
import os

import mlflow
import pandas as pd
from azureml.ai.monitoring import Collector
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema
from mlflow.pyfunc.scoring_server import _get_jsonable_obj

folder = os.path.join(os.environ["AZUREML_MODEL_DIR"], os.environ["MLFLOW_MODEL_FOLDER"])
model = mlflow.pyfunc.load_model(folder)
signature, example = model.metadata.signature, model.metadata.saved_input_example_info
assert example["type"] == "dataframe"
with open(os.path.join(folder, example["artifact_path"])) as file:
    saved = json.load(file)
rows = pd.read_json(json.dumps(saved), orient="split" if "columns" in saved else "values", dtype=False)
answer = pd.DataFrame(columns=signature.outputs.input_names())
answer = answer.astype(dict(zip(answer.columns, signature.outputs.pandas_types())))
defaults = {param.name: param.default for param in signature.params.params}


def init():
    assert Collector


@input_schema("input_data", PandasParameterType(rows, enforce_shape=False, orient="split"))
@input_schema("params", StandardPythonParameterType(defaults), optional=True)
@output_schema(PandasParameterType(answer, enforce_shape=False, orient="records"))
def run(input_data, params=None):
    return _get_jsonable_obj(model.predict(input_data, params=params), pandas_orient="records")
"""


def test_a_model_for_azure_requires_what_its_server_and_its_script_import(trained, tmp_path):
    mlflow_resnet.save_model(trained.classifier, tmp_path / "model", serving_for="azureml")
    required = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert set(required) >= PACKAGES
    (pandas,) = [text for text in required if text.startswith("pandas")]
    allowed = f"pandas=={pd.__version__}" if pd.__version__ < "3" else "pandas>=2.2,<3"
    assert Requirement(pandas) == Requirement(allowed)
    assert not PACKAGES & set(get_default_pip_requirements())
    with pytest.raises(InvalidOptionsError, match="serving_for is 'azure'; choose one of '', 'azureml'"):
        mlflow_resnet.save_model(trained.classifier, tmp_path / "typo", serving_for="azure")
    with pytest.raises(InvalidOptionsError, match="beside requirements of your own; add azureml-inference-server-http"):
        mlflow_resnet.save_model(
            trained.classifier, tmp_path / "own", serving_for="azureml", pip_requirements=["mlflow"]
        )


def test_a_training_registers_a_model_for_azure(tracking, images):
    folders = {"train_dir": str(images / "train"), "val_dir": str(images / "val")}
    model = {"serving_for": "azureml", "registered_model_name": "deployable"}
    train(TrainOptions(**TINY | {"epochs": 1}, **folders, **model))
    path = mlflow.artifacts.download_artifacts("models:/deployable/1")
    assert set(Path(path, "requirements.txt").read_text().splitlines()) >= PACKAGES


@pytest.fixture(scope="module")
def deployment(trained, tmp_path_factory):
    """The URL and the log of a deployment, in an environment that has what the model requires."""
    folder = tmp_path_factory.mktemp("azure")
    model = folder / "models" / "model"
    mlflow_resnet.save_model(trained.classifier, model, serving_for="azureml")
    python = make_environment(folder / "venv", (model / "requirements.txt").read_text().splitlines())
    install(python, "-r", str(model / "requirements.txt"))
    (folder / "score.py").write_text(SCRIPT)
    port = free_port()
    command = [str(python), "-m", "azureml_inference_server_http", "--entry_script", "score.py", "--port", str(port)]
    command += ["--health_port", str(free_port()), "--worker_count", "2"]
    env = {"AZUREML_MODEL_DIR": str(model.parent), "MLFLOW_MODEL_FOLDER": model.name, "PYTHONPATH": ""}
    env["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    with server(command, f"http://127.0.0.1:{port}/", folder, 180, **env):
        (log,) = folder.glob("server-*.log")
        yield f"http://127.0.0.1:{port}", log
    shutil.rmtree(folder / "venv")  # gigabytes


@pytest.fixture(scope="module")
def encoded(images):
    files = sorted((images / "val").rglob("*.jpg"))
    return {file: base64.b64encode(file.read_bytes()).decode() for file in files}


def ask(deployment, body):
    answer = requests.post(f"{deployment[0]}/score", json=body, timeout=60)
    assert answer.ok, f"{answer.text} {deployment[1].read_text()[-3000:]}"
    return pd.DataFrame(answer.json())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rows", "flat", "without index", "column 0"])
def test_every_form_of_a_table_gets_the_answers_of_predict(form, deployment, trained, encoded):
    texts = list(encoded.values())
    table = {"columns": ["image"], "index": list(range(len(texts))), "data": [[text] for text in texts]}
    table |= {"rows": {}, "flat": {"data": texts}, "without index": {}, "column 0": {"columns": [0]}}[form]
    if form == "without index":
        del table["index"]
    scored = ask(deployment, {"input_data": table})
    expected = mlflow.pyfunc.load_model(trained.model_uri).predict(list(map(str, encoded)))
    assert set(scored.columns) == set(expected.columns)
    assert list(scored["Scored Labels"]) == [file.parent.name for file in encoded]
    probabilities = [name for name in expected if name.startswith("Scored Probabilities_")]
    assert_same_probabilities(scored[probabilities], expected[probabilities], of_auto())


@pytest.mark.slow
def test_params_and_rows_with_errors(deployment, encoded):
    good = next(iter(encoded.values()))
    table = {"columns": ["image"], "data": [[good], ["/etc/passwd"], ["/etc/nope"], ["s3://bucket/picture.jpg"]]}
    scored = ask(deployment, {"input_data": table, "params": {"top_k": 1}})
    assert set(scored.columns) == {"image", "Scored Labels", "Top 1 Label", "Top 1 Probability", "error"}
    assert list(scored["Top 1 Label"]) == list(scored["Scored Labels"]) == ["007", "", "", ""]
    assert list(scored["Top 1 Probability"].notna()) == [True, False, False, False]
    assert list(scored["error"]) == ["", REFUSED, REFUSED, REFUSED]


@pytest.mark.slow
def test_what_predict_refuses_is_in_the_log_of_the_deployment(deployment, encoded):
    table = {"columns": ["image"], "data": list(encoded.values())[:1]}
    two_columns = {"columns": ["first", "second"], "data": [["text", "text"]]}
    for body, problem in [
        ({"input_data": table, "params": {"topk": 1}}, "unknown params; predict takes"),
        ({"input_data": two_columns}, "of several columns, one must be named image"),
    ]:
        answer = requests.post(f"{deployment[0]}/score", json=body, timeout=60)
        assert answer.status_code == 500  # Azure's server says no more to the caller
        assert problem in deployment[1].read_text()


@pytest.mark.slow
def test_the_page_that_describes_the_deployment_shows_the_input_example(deployment):
    described = requests.get(f"{deployment[0]}/swagger.json", timeout=60).json()
    assert base64.b64encode(b"\x89PNG\r\n\x1a\n\0").decode() in json.dumps(described["definitions"]["ServiceInput"])
