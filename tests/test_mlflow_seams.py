"""What `mlflow_resnet.mlflow_seams` assumes of the installed MLflow, a test for each assumption."""

import asyncio
import contextlib
import importlib.util
import inspect
import json
import logging
import os
import re
import sqlite3
import sys
import threading
import zipfile
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_resnet import mlflow_seams


@pytest.fixture(scope="module")
def store(empty_database):
    """The registry in a database, with the model `flowers`."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{empty_database}")
    store.create_registered_model("flowers")
    yield store
    store.delete_registered_model("flowers")


# names that MLflow gives to things


def test_tags_that_mlflow_itself_sets(workdir):
    with mlflow.start_run(description="a run") as run:
        mlflow.log_table({"column": [1]}, "table.json")
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"column": [1]})), context="validation")
    run = mlflow.get_run(run.info.run_id)
    assert run.data.tags[mlflow_seams.NOTE_TAG] == "a run"
    assert json.loads(run.data.tags[mlflow_seams.TABLES_TAG]) == [{"path": "table.json", "type": "table"}]
    (data,) = run.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in data.tags} == {mlflow_seams.DATASET_CONTEXT_TAG: "validation"}


def test_versions_of_prompts_have_a_source_of_their_own(workdir):
    mlflow.genai.register_prompt("greeting", "Hello {{name}}")
    with contextlib.closing(sqlite3.connect("mlflow.db")) as connection:
        ((source,),) = connection.execute("select source from model_versions")
    assert source in mlflow_seams.PROMPT_SOURCES
    from mlflow.prompt import constants  # which names them since 3.17

    assert set(mlflow_seams.PROMPT_SOURCES) == constants._PROMPT_SOURCE_PLACEHOLDERS


def test_processes_that_serve_are_marked():
    from mlflow.pyfunc.utils.environment import _simulate_serving_environment

    with _simulate_serving_environment():
        assert os.environ[mlflow_seams.SERVING_VARIABLE] == "true"
    assert mlflow_seams.SERVING_VARIABLE not in os.environ


def test_the_scoring_server_is_told_its_model_in_a_variable(monkeypatch):
    from mlflow.pyfunc import scoring_server

    assert not mlflow_seams.is_scoring_server()
    monkeypatch.setenv(scoring_server._SERVER_MODEL_PATH, "model")
    assert mlflow_seams.is_scoring_server()


LOADER = """
class Loaded:
    def predict(self, data):
        return data

def _load_pyfunc(path):
    return Loaded()
"""


def test_code_of_a_model_may_be_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    described = Model()
    described.add_flavor("python_function", loader_module="packed_loader", **{mlflow_seams.CODE_FIELD: "code/all.zip"})
    described.save(tmp_path / "MLmodel")
    (tmp_path / "code").mkdir()
    with zipfile.ZipFile(tmp_path / "code" / "all.zip", "w") as archive:
        archive.writestr("packed_loader.py", LOADER)
    assert mlflow.pyfunc.load_model(str(tmp_path)).predict("data") == "data"
    assert sys.modules.pop("packed_loader").__file__ == f"{tmp_path}/code/all.zip/packed_loader.py"


def test_an_operator_overrides_the_configuration_of_a_model(monkeypatch):
    from mlflow.utils.model_utils import _get_overridden_pyfunc_model_config

    monkeypatch.setenv(mlflow_seams.CONFIGURATION_VARIABLE, '{"device": "cpu"}')
    assert _get_overridden_pyfunc_model_config({"device": "auto"}, None, logging.getLogger()) == {"device": "cpu"}


def test_who_has_logged_in_is_noted_with_the_request():
    source = Path(importlib.util.find_spec("mlflow.server.auth").origin).read_text()
    assert f"g.{mlflow_seams.USER_OF_REQUEST} = " in source


# wordings


@pytest.fixture(scope="module")
def model():
    """A function that MLflow serves, which takes a number and refuses the number 13."""
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PyFuncModel
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    class Half:
        def predict(self, data, params=None):
            if data.iloc[0, 0] == 13:
                raise MlflowException.invalid_parameter_value("thirteen")
            return data / 2

    params = ParamSchema([ParamSpec("top_k", "long", 0)])
    signature = ModelSignature(inputs=Schema([ColSpec("long", "number")]), params=params)
    described = Model(signature=signature)
    described.add_flavor("python_function", loader_module="half")
    return PyFuncModel(described, Half())


JSON = "application/json"


def body(number, **fields):
    """JSON that asks for a half of `number`."""
    return json.dumps({"dataframe_split": {"columns": ["number"], "data": [[number]]}} | fields).encode()


@pytest.mark.parametrize(
    ("wording", "kind", "content"),
    [
        (mlflow_seams.NOT_JSON, JSON, b'{"inputs": '),
        (mlflow_seams.NOT_ONE_INPUT, JSON, b'{"inputs": [1], "instances": [1]}'),
        (mlflow_seams.NOT_CSV, "text/csv", b""),
        (mlflow_seams.NOT_PARQUET, "application/vnd.apache.parquet", b"no Parquet"),
        (mlflow_seams.PARAMS_NOT_A_DICTIONARY, JSON, body(1, params=[1])),
        (mlflow_seams.PARAMS_OF_OTHER_TYPES, JSON, body(1, params={"top_k": "x"})),
    ],
)
def test_what_the_scoring_server_says_of_bodies_that_it_refuses(model, wording, kind, content):
    assert wording in refusal(model, kind, content)


def test_where_json_is_broken_is_told(model):
    assert re.search(mlflow_seams.PLACE_IN_JSON, refusal(model, JSON, b'{"inputs": '))[1].startswith("line 1 column")


def test_what_is_wrong_follows_the_input(model):
    message = refusal(model, JSON, body(13))
    assert message.rpartition(mlflow_seams.ERROR_MARK)[2] == "thirteen"


def refusal(model, kind, content):
    from mlflow.pyfunc import scoring_server

    original = getattr(scoring_server.invocations, "args", [scoring_server.invocations])[-1]
    with pytest.raises(MlflowException) as refused:
        original(content, kind, model, model.metadata.get_input_schema())
    return refused.value.message


def test_the_local_source_of_a_dataset_is_ambiguous(tmp_path):
    from mlflow.data.dataset_source_registry import resolve_dataset_source

    with pytest.warns(UserWarning, match=mlflow_seams.AMBIGUOUS_SOURCE):
        resolve_dataset_source(str(tmp_path))


# functions that are called


def test_a_conda_environment_has_the_requirements():
    *_, packages = mlflow_seams.make_conda_env(["torch==2"])["dependencies"]
    assert packages == {"pip": [f"mlflow=={mlflow.__version__}", "torch==2"]}


def test_artifacts_of_an_evaluation_are_read_from_where_they_lie(tmp_path):
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact

    (tmp_path / "report.json").write_text("[1]")
    artifact = JsonEvaluationArtifact("s3://nowhere/report.json")
    mlflow_seams.load_evaluation_artifact(artifact, tmp_path / "report.json")
    assert artifact.content == [1]


def test_an_active_run_ends_here_before_its_server_hears_of_it(workdir):
    run = mlflow.start_run(log_system_metrics=True)
    tell = mlflow_seams.detach_active_run("FAILED")
    assert mlflow.active_run() is None
    assert mlflow.last_active_run().info.run_id == run.info.run_id
    assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    tell()
    assert mlflow.get_run(run.info.run_id).info.status == "FAILED"
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("validate", "names"),
    [(mlflow_seams.validate_model_name, ["", "a/b"]), (mlflow_seams.validate_alias, ["", "a/b", "latest", "v1"])],
)
def test_names_that_the_registry_does_not_take(validate, names):
    validate("flowers")
    for name in names:
        with pytest.raises(MlflowException):
            validate(name)


def test_rows_of_the_registry(store):
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

    with store.ManagedSessionMaker() as session:
        assert [row.name for row in mlflow_seams.query_rows(store, session, SqlRegisteredModel)] == ["flowers"]
        assert mlflow_seams.find_model_row(store, session, "flowers").name == "flowers"
        with pytest.raises(MlflowException, match="not found"):
            mlflow_seams.find_model_row(store, session, "cars")


def test_tags_that_clients_see_can_be_changed():
    from mlflow.entities.model_registry import RegisteredModel, RegisteredModelTag
    from mlflow.prompt.registry_utils import has_prompt_tag

    model = RegisteredModel("flowers", tags=[RegisteredModelTag("a", "1"), RegisteredModelTag("b", "2")])
    tags = mlflow_seams.get_all_tags(model)
    del tags["a"]
    tags["c"] = "3"
    assert model.tags == {"b": "2", "c": "3"}
    prompt = RegisteredModel("greeting", tags=[RegisteredModelTag("mlflow.prompt.is_prompt", "true")])
    assert has_prompt_tag(mlflow_seams.get_all_tags(prompt))


@pytest.fixture
def handlers(monkeypatch, tmp_path):
    """MLflow's server in this process, with its artifacts in a folder."""
    from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR, SERVE_ARTIFACTS_ENV_VAR, handlers

    monkeypatch.setenv(SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(ARTIFACTS_DESTINATION_ENV_VAR, str(tmp_path))
    for name in ("_tracking_store", "_artifact_repo"):
        monkeypatch.setattr(handlers, name, None)
    return handlers


def test_the_servers_own_tracking_store(workdir, handlers, monkeypatch):
    from mlflow.server import BACKEND_STORE_URI_ENV_VAR

    monkeypatch.setenv(BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{workdir}/mlflow.db")
    assert mlflow_seams.get_servers_tracking_store().get_experiment_by_name("Default").experiment_id == "0"


@pytest.mark.parametrize("root", ["mlflow-artifacts:/", "file://"])
def test_artifacts_where_the_server_finds_them(tmp_path, handlers, root):
    folder = tmp_path / "1" / "artifacts"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}")
    location = f"{root}1/artifacts" if root == "mlflow-artifacts:/" else f"{root}{folder}"
    repository, path = mlflow_seams.locate_artifact(location, "MLmodel")
    (tmp_path / "fetched").mkdir()
    assert Path(repository.download_artifacts(path, str(tmp_path / "fetched"))).read_text() == "flavors: {}"


# functions that are replaced


def test_the_check_of_inputs_is_replaced_once(monkeypatch, model):
    given = []

    def check(original, *arguments):
        given.append(inspect.signature(original).bind(*arguments).arguments)
        return original(*arguments)

    monkeypatch.setattr(mlflow.pyfunc, "_validate_prediction_input", mlflow.pyfunc._validate_prediction_input)
    for _ in range(2):
        mlflow_seams.replace_input_check(check)
    assert model.predict(pd.DataFrame({"number": [4]}), {"top_k": 1}).iloc[0, 0] == 2
    (facts,) = given
    assert list(facts) == ["data", "params", "input_schema", "params_schema", "flavor"]
    assert facts["flavor"] == "half"


def test_what_the_scoring_server_answers_is_replaced_once(monkeypatch, model):
    from mlflow.pyfunc import scoring_server

    given = []

    def answer(original, *arguments):
        given.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(scoring_server, "invocations", scoring_server.invocations)
    for _ in range(2):
        mlflow_seams.replace_invocations(answer)
    assert asyncio.run(post(scoring_server.init(model), body(4))) == {"predictions": [{"number": 2.0}]}
    assert given == [(body(4), JSON, model, model.metadata.get_input_schema())]


def test_a_function_is_called_once_in_the_loop_of_the_scoring_server(monkeypatch, model):
    from mlflow.pyfunc import scoring_server

    loops = []
    decorate = scoring_server._async_catch_mlflow_exception
    monkeypatch.setattr(scoring_server, "_async_catch_mlflow_exception", decorate)
    mlflow_seams.call_in_server_loop(lambda: loops.append(asyncio.get_running_loop()))
    app = scoring_server.init(model)

    async def post_twice():
        return [await post(app, body(number)) for number in (4, 6)], asyncio.get_running_loop()

    answers, loop = asyncio.run(post_twice())
    assert answers == [{"predictions": [{"number": 2.0}]}, {"predictions": [{"number": 3.0}]}]
    assert loops == [loop]


async def post(app, content):
    """The answer of an ASGI application to JSON."""
    answered = b""

    async def receive():
        return {"type": "http.request", "body": content}

    async def send(message):
        nonlocal answered
        answered += message.get("body", b"")

    scope = {"type": "http", "method": "POST", "path": "/invocations", "query_string": b"", "root_path": ""}
    await app(scope | {"headers": [(b"content-type", JSON.encode())]}, receive, send)
    return json.loads(answered)


def test_mlflows_own_evaluators_are_wrapped_once():
    from mlflow.models.evaluation import default_evaluator
    from mlflow.models.evaluation.default_evaluator import BuiltInEvaluator

    import mlflow_resnet.evaluator  # noqa: F401 - wraps them

    wrapped = BuiltInEvaluator.evaluate
    assert wrapped.__wrapped__.__module__ == BuiltInEvaluator.__module__
    mlflow_seams.wrap_builtin_evaluate(default_evaluator, lambda evaluate: None)
    assert BuiltInEvaluator.evaluate is wrapped
