"""`mlflow-resnet serve --follow`: a real server follows a real registry."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
import requests
from helpers import free_port, run_main
from mlflow import MlflowClient
from served import NAME, Registry, log_version, new_classifier, serving, tampered_version, with_nan

from mlflow_resnet.scoring.over_http.guard import SERVING_SWITCHES


@pytest.fixture(scope="module")
def registry(tracking):
    """Version 1, the champion, and version 2."""
    registry = Registry(NAME, {})
    for seed in (1, 2):
        registry.add(seed)
    registry.move("1")
    return registry


@pytest.fixture(scope="module")
def following(registry, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("follow"), NAME, "--follow", "--poll-seconds", "0.2") as running:
        yield running


@pytest.fixture
def champion(registry, following):
    """The server, when it serves version 1."""
    registry.move("1")
    following.wait_until(lambda model: model["version"] == "1" and not model["follow"]["last_error"])
    return following


def test_every_answer_names_the_version(champion):
    answers = [requests.get(f"{champion.url}/{path}", timeout=5) for path in ("ping", "version", "model", "nothing")]
    answers += [champion.ask(), champion.ask(params={"top_k": -1})]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200, 400]
    source = MlflowClient().get_model_version(NAME, "1").source
    for answer in answers:
        assert answer.headers["X-Model-Name"] == "served%20colors%2C%20gr%C3%BCn"
        assert answer.headers["X-Model-Version"] == "1"
        assert f"models:/{answer.headers['X-Model-Id']}" == source
    assert answers[1].text == mlflow.__version__


def test_a_moved_alias_is_followed_there_and_back(champion, registry):
    for version in ("2", "1"):
        registry.move(version)
        champion.wait_until(lambda model, version=version: model["version"] == version)
        answer = champion.ask(images=3)
        assert answer.headers["X-Model-Version"] == version
        assert registry.agrees(answer)
    facts = champion.model()
    assert (facts["name"], facts["alias"], facts["follow"]["last_error"]) == (NAME, "champion", None)
    assert len(facts["model_sha256"]) == 64
    assert facts["since"] <= facts["follow"]["last_check"]


def test_300_requests_at_once_are_all_answered(champion, registry):
    together = threading.Barrier(300)

    def ask(_):
        together.wait(60)
        return champion.ask()

    with ThreadPoolExecutor(300) as pool:
        answers = list(pool.map(ask, range(300)))
    assert [answer.status_code for answer in answers] == [200] * 300
    assert all(registry.agrees(answer) for answer in answers)


def log_foreign(name):
    class Nothing(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    info = mlflow.pyfunc.log_model(
        name="foreign", python_model=Nothing(), registered_model_name=name, pip_requirements=[]
    )
    return str(info.registered_model_version)


BAD = {
    "weights that are not finite": (lambda: log_version(with_nan()), "the network's output is not finite"),
    "exchanged weights": (lambda: tampered_version(NAME, 3), "was changed or damaged; restore it"),
    "a batch of a million": (
        lambda: log_version(new_classifier(3), model_config={"max_batch_size": 10**6}),
        "max_batch_size in the model's configuration is 1000000, over the limit of 256",
    ),
    "another flavor": (lambda: log_foreign(NAME), "expected mlflow_resnet. MLflow itself loads it."),
}


@pytest.fixture(scope="module", params=BAD)
def bad(request, registry):
    make, why = BAD[request.param]
    return make(), why


def test_a_version_that_cannot_be_served_leaves_the_old_one_and_is_told(bad, champion, registry):
    version, why = bad
    registry.move(version)
    champion.wait_until(lambda model: model["follow"]["last_error"])
    facts = champion.model()
    assert facts["follow"]["last_error"].startswith(f"models:/{NAME}/{version}: ")
    assert why in facts["follow"]["last_error"]
    assert "/tmp" not in facts["follow"]["last_error"]
    assert facts["version"] == "1"
    assert registry.agrees(champion.ask())


def test_a_version_that_cannot_be_served_is_refused_at_the_start(bad, registry, monkeypatch):
    version, why = bad
    result = run_serve(monkeypatch, f"models:/{NAME}/{version}", free_port())
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"mlflow-resnet: models:/{NAME}/{version}: ")
    assert why in result.stderr


def test_a_version_is_tried_again_when_its_files_are_back(champion, registry):
    source = MlflowClient().get_model_version(NAME, "2").source
    location = MlflowClient().get_logged_model(source.removeprefix("models:/")).artifact_location
    data = Path(location.removeprefix("file://")) / "data"
    data.rename(data.with_name("away"))
    registry.move("2")
    champion.wait_until(lambda model: model["follow"]["last_error"])
    assert champion.model()["follow"]["last_error"].startswith(f"models:/{NAME}/2: ")
    assert str(data.parents[1]) not in champion.model()["follow"]["last_error"]
    assert registry.agrees(champion.ask())
    data.with_name("away").rename(data)
    champion.wait_until(lambda model: model["version"] == "2" and not model["follow"]["last_error"])


def test_an_alias_that_is_gone_changes_nothing(champion, registry):
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    champion.wait_until(lambda model: model["follow"]["last_error"])
    assert champion.model()["follow"]["last_error"] == "where @champion of served colors, grün points is not known"
    assert registry.agrees(champion.ask())


def run_serve(monkeypatch, model_uri, port, *arguments):
    # which it sets
    for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", *SERVING_SWITCHES):
        monkeypatch.setenv(name, "1")
    return run_main("serve", model_uri, "--port", port, *arguments)


@pytest.mark.parametrize(
    ("model_uri", "arguments", "problem"),
    [
        (f"models:/{NAME}@nobody", (), f"models:/{NAME}@nobody: not in the registry"),
        (f"models:/{NAME}/99", (), f"models:/{NAME}/99: not in the registry"),
        ("models:/no-such-name/1", (), "models:/no-such-name/1: not in the registry"),
        ("runs:/1/model", (), "runs:/1/model: not a registered version"),
        (f"models:/{NAME}/1", ("--follow",), "follow needs an alias, such as models:/digits@champion"),
        (f"models:/{NAME}/1", ("--host", "no such host"), "cannot be served from"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(model_uri, arguments, problem, registry, monkeypatch):
    result = run_serve(monkeypatch, model_uri, free_port(), *arguments)
    assert result.returncode == 2
    assert problem in result.stderr.splitlines()[-1]


def test_a_port_that_is_taken(registry, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_serve(monkeypatch, f"models:/{NAME}/1", port)
    assert result.returncode == 2
    problem = f"port {port} of 127.0.0.1 cannot be served from (Address already in use); choose another port or host"
    assert result.stderr.splitlines()[-1] == f"mlflow-resnet: {problem}"


def test_a_registry_that_is_not_there(tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{free_port()}")
    with contextlib.ExitStack() as at_end:
        at_end.callback(mlflow.set_registry_uri, None)
        result = run_serve(monkeypatch, f"models:/{NAME}/1", free_port())
    assert result.returncode == 2
    assert "does not answer" in result.stderr.splitlines()[-1]
