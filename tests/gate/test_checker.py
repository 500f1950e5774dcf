"""Several users call everything at once, and what is there afterwards must be allowed: see checker/__init__.py."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import mlflow
import pytest
from checker.actions import ACTIONS, ARTIFACTS, PLAYED
from checker.found import FOUND
from checker.judge import check, is_mlflows_own
from checker.program import Program, Step, play
from checker.rules import DATA
from checker.run import search
from checker.server import site
from checker.world import KEY, PASSWORD, READY, Site
from helpers import COLORS
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import mlflow_resnet
from mlflow_resnet.errors import MlflowResnetError
from mlflow_resnet.options import PromoteOptions
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.evidence import from_text
from mlflow_resnet.serving.version import load_version
from mlflow_resnet.verbs.promote import promote


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crowd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Site]:
    with site(request.param, tmp_path_factory.mktemp("crowd"), empty_database) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_a_hole_that_was_found_once_is_closed(crowd, name):
    play(FOUND[name], crowd, check)


DEFAULTS = {"name": "free", "other": "plain", "version": 1, "other_version": 2, "alias": "champion", "quality": 0}
DEFAULTS |= {"birth": "none", "model_tag": 5, "version_tag": 8, "source": 1, "data": DATA, "lie": "", "number": 0.5}
DEFAULTS |= {"status": READY, "file": "MLmodel"}


@pytest.mark.slow
def test_each_action_reaches_its_routes(crowd):
    """A checker that misspells a route checks nothing."""
    actions = {name: set(inspect.signature(action).parameters) & set(DEFAULTS) for name, action in ACTIONS.items()}
    steps = [Step("ann", name, {key: DEFAULTS[key] for key in keys}) for name, keys in actions.items()]
    steps.sort(key=lambda step: "delete" in step.action or "rename" in step.action)
    world = play(Program({"free": "registered", "plain": "promoted"}, [[step] for step in steps]), crowd, check)
    missed = [each for each in world.answers if each.status in (404, 405) and "error_code" not in each.body]
    assert not missed
    done = {each.path for each in world.answers if each.status == 200}
    assert len(done) > len(PLAYED) - 12


def test_server_errors_that_count_as_mlflows_own_come_without_the_gate(tmp_path):
    """One user deletes an experiment while another renames it."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("flowers")
    client.delete_experiment(experiment)
    with pytest.raises(MlflowException) as refused:
        client.rename_experiment(experiment, "trees")
    assert refused.value.get_http_status_code() == 500
    assert is_mlflows_own("experiments/update", refused.value.message)
    assert not is_mlflows_own("registered-models/update", refused.value.message)


@pytest.mark.slow
def test_nobody_unproven_is_champion_whatever_several_users_do_at_once(crowd):
    number = random.randrange(10**6)
    told = search(crowd, number, steps=40)
    assert told.steps >= 40


@pytest.mark.slow
def test_nor_in_thousands_of_steps(crowd):
    number = random.randrange(10**6)
    told = search(crowd, number, steps=1500)
    assert told.moves[200] > 50, "too little was allowed to show anything"
    assert told.moves[403] > 50, "too little was refused to show anything"


@pytest.fixture
def ann(crowd, monkeypatch) -> MlflowClient:
    """A user of MLflow's own client, who also has the key."""
    names = ("TRACKING_URI", "TRACKING_USERNAME", "TRACKING_PASSWORD", "RESNET_GATE_KEY")
    for name, value in zip(names, (crowd.url, "ann", PASSWORD, KEY), strict=True):
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(crowd.url)
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_the_champion_that_loads_is_what_was_measured_while_its_files_are_exchanged(crowd, ann, images):
    """Two users write another model's files over the champion's, one by one, while it is loaded again and again."""
    experiment = ann.create_experiment("real")  # the default one has its files beside the database
    uris = [log_real_model(experiment, number) for number in (1, 2)]
    promote(PromoteOptions(model_uri="models:/real/1", image_dir=str(images / "val")))
    (entry,) = alias_history.entries(ann.get_registered_model("real").tags, "champion")
    measured = from_text(ann.get_model_version("real", "1").tags[entry.evidence]).model_sha256
    assert (entry.who, entry.model_sha256) == ("ann", measured)
    kept = [{file: get(crowd, uri, file) for file in FILES} for uri in uris]
    done = Event()
    with ThreadPoolExecutor(2) as others:
        for who in ("ben", "cat"):
            others.submit(exchange, crowd, who, uris[0], kept, done)
        try:
            loaded = [digest_of_champion() for _ in range(8)]
        finally:
            done.set()
    assert set(loaded) <= {measured, "refused"}
    for file, content in kept[0].items():
        put(crowd, "ann", uris[0], file, content)
    assert digest_of_champion() == measured


FILES = ("MLmodel", "data/classifier.json", "data/model.safetensors")


def log_real_model(experiment: str, number: int) -> str:
    """A version with a network and an order of classes of its own; where the artifact proxy has its files."""
    classes = tuple(COLORS) if number == 1 else tuple(COLORS)[::-1]
    with mlflow.start_run(experiment_id=experiment):
        preprocessing = mlflow_resnet.Preprocessing(36, 32)
        network = mlflow_resnet.new_classifier("resnet18", classes, preprocessing, random_seed=number)
        info = mlflow_resnet.log_model(network, name="model", registered_model_name="real")
    return MlflowClient().get_logged_model(info.model_id).artifact_location.removeprefix("mlflow-artifacts:/")


def get(crowd: Site, folder: str, file: str) -> bytes:
    return crowd.request("GET", f"/{ARTIFACTS}/artifacts/{folder}/{file}", "ann", {}).content


def put(crowd: Site, who: str, folder: str, file: str, content: bytes) -> None:
    crowd.request("PUT", f"/{ARTIFACTS}/artifacts/{folder}/{file}", who, {}, data=content).raise_for_status()


def exchange(crowd: Site, who: str, folder: str, kept: list[dict[str, bytes]], done: Event) -> None:
    """Any file of any of the models, in no order."""
    draw = random.Random(who)
    while not done.wait(0.1):
        file = draw.choice(FILES)
        put(crowd, who, folder, file, draw.choice(kept)[file])


def digest_of_champion() -> str:
    try:
        return load_version("models:/real@champion").model_sha256
    except MlflowResnetError:
        return "refused"


READS = r"search|get-latest-versions|presigned-download-url|batchGet|metrics$|filter-correlation"
ELSEWHERE = {  # routes that change something, and why no program plays them
    r"/mlflow/(traces|issues|label-schemas|datasets|scorers?|review-queues|mcp-servers|assistant)\b": (
        "neither read nor write the registry, logged models or their files"
    ),
    r"/v1/traces|(/mlflow)?/gateway": "traces and language models, which have tables of their own",
    r"(/mlflow)?/jobs|/mlflow/(prompt-optimization|demo|genai)": "jobs",
    r"/mlflow/(ui-telemetry|runs/create-promptlab-run)": "the UI; makes a run, which runs/create does too",
    r"/mlflow/experiments/search-datasets": "reads; MLflow has not made it yet",
    r"/mlflow/webhooks": "tell others, and change nothing here",
    r"/mlflow/workspaces": "docs/gate.md says what an operator does about them; the server has none",
    r"/graphql": "searches only; its one mutation is a test of MLflow's own",
}


def routes() -> set[tuple[str, str]]:
    """Of MLflow's server, both its halves: methods that may change something, and paths without their version."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import app as outer

    found = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods}
    found |= {(method.upper(), path) for path, known in outer.openapi()["paths"].items() for method in known}
    return {(method, plain(path)) for method, path in found if method not in ("GET", "HEAD", "OPTIONS")}


def plain(path: str) -> str:
    """A path without its version, and with its parameters as Flask writes them."""
    path = re.sub(r"^/(ajax-)?api/\d\.0/?", "/", path)
    return re.sub(r"\{(\w+)\}|<path:(\w+)>", r"<\1\2>", path)


def test_every_route_that_changes_something_is_played_or_said_to_be_elsewhere():
    """A route that a newer MLflow adds fails here until somebody has looked at it."""
    played = {(method, plain(path)) for method, path in PLAYED}
    unknown = {
        (method, path)
        for method, path in routes() - played
        if not re.search(READS, path) and not any(re.match(known, path) for known in ELSEWHERE)
    }
    assert not unknown
    assert routes() >= played
