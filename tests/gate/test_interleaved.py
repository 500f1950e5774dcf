"""Another write at the worst moment: just before the gate takes its lock, or while it has it.

Each needs no luck: the other write is made, or begun, from within the first one, by an event of the database engine.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading

import mlflow
import pytest
from databases import database_of
from gate_server import Version as Measured
from gate_server import proof, tag_of
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
from sqlalchemy import event

from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.evidence import sign_evidence
from mlflow_resnet.registry.gate.plugin import build

RULES = """
- {models: "plain*", alias: champion}
- {models: "signed*", alias: champion, signed: true}
- {models: "approved*", alias: champion, approval: {tag: approved}}
"""
PROMPT = [RegisteredModelTag("mlflow.prompt.is_prompt", "true")]
numbers = itertools.count()


class Registry:
    """Two stores on one database, as two workers of a server have them."""

    def __init__(self, uri, folder):
        self.first, self.second = (build(f"resnet-gate+{uri}", uri) for _ in range(2))
        self.client = MlflowClient(uri)
        self.experiment = self.client.create_experiment("models", str(folder / "artifacts"))

    def logged(self, weights):
        model = self.client.create_logged_model(self.experiment, params={"model_sha256": weights})
        self.client.finalize_logged_model(model.model_id, "READY")
        return model.model_id

    def version(self, name, weights="ab", tags=None):
        """A real version of a model, which is made if there is none."""
        with contextlib.suppress(MlflowException):
            self.first.create_registered_model(name)
        model_id = self.logged(weights)
        tags = [ModelVersionTag(*tag) for tag in tags or ()]
        made = self.first.create_model_version(name, f"models:/{model_id}", tags=tags)
        return Measured(name, int(made.version), model_id, weights)

    def measure(self, version, champion=None):
        tag = ModelVersionTag(*tag_of(proof(version, champion)))
        self.first.set_model_version_tag(version.name, version.number, tag)

    def promoted(self, name, champion=None):
        version = self.version(name)
        self.measure(version, champion)
        self.first.set_registered_model_alias(name, "champion", version.number)
        return version

    def champion(self, name, alias="champion"):
        try:
            return int(self.first.get_registered_model(name).aliases.get(alias, 0)) or None
        except MlflowException:
            return "no such model"

    def moves(self, name):
        return alias_history.entries(self.first.get_registered_model(name).tags, "champion")


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def registry(request, tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("interleaved")
    (folder / "policy.yaml").write_text(RULES)
    with pytest.MonkeyPatch.context() as patch, database_of(request.param, folder, empty_database) as uri:
        patch.setenv("MLFLOW_RESNET_GATE_POLICY", str(folder / "policy.yaml"))
        patch.setenv("MLFLOW_RESNET_GATE_KEY", "secret")
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        yield Registry(uri, folder)
        mlflow.set_tracking_uri(before)


@pytest.fixture
def name():
    return f"{next(numbers)}"


def takes_the_lock(statement):
    return statement.startswith(("BEGIN IMMEDIATE", "LOCK TABLE"))


@contextlib.contextmanager
def just_before_the_lock(registry, other):
    """`other` is done as a whole after all that the gate does without its lock, and before it has it."""
    done = []

    def listen(connection, cursor, statement, *_):
        if takes_the_lock(statement) and not done:
            done.append("begun")
            other()
            done.append("ended")

    event.listen(registry.first.engine, "before_cursor_execute", listen)
    yield
    event.remove(registry.first.engine, "before_cursor_execute", listen)
    assert done == ["begun", "ended"]


@contextlib.contextmanager
def under_the_lock(registry, other):
    """`other` is begun when the gate has just taken its lock, and must not end before the gate gives it back."""
    answers, threads = [], []

    def run():
        answers.append(said(other))

    def listen(connection, cursor, statement, *_):
        if takes_the_lock(statement) and not threads:
            threads.append(threading.Thread(target=run))
            threads[0].start()
            threads[0].join(0.5)
            assert threads[0].is_alive(), "another write was made under the lock"

    event.listen(registry.first.engine, "after_cursor_execute", listen)
    yield answers
    event.remove(registry.first.engine, "after_cursor_execute", listen)
    threads[0].join(60)


def said(call, *arguments):
    """The error code of MLflow's answer; "done" if there is none."""
    try:
        call(*arguments)
    except MlflowException as error:
        return error.error_code
    return "done"


def test_an_alias_set_just_before_a_rename_is_seen_by_it(registry, name):
    version = registry.version(f"free-{name}")

    def other():
        registry.second.set_registered_model_alias(version.name, "champion", 1)

    with just_before_the_lock(registry, other):
        assert said(registry.first.rename_registered_model, version.name, f"plain-{name}") == "PERMISSION_DENIED"
    assert registry.champion(f"plain-{name}") == "no such model"


def test_an_alias_set_just_after_a_rename_finds_no_model(registry, name):
    version = registry.version(f"free-{name}")

    def other():
        registry.second.rename_registered_model(version.name, f"plain-{name}")

    with just_before_the_lock(registry, other):
        found = said(registry.first.set_registered_model_alias, version.name, "champion", 1)
    assert found == "RESOURCE_DOES_NOT_EXIST"
    assert registry.champion(f"plain-{name}") is None


def test_an_alias_set_while_a_rename_is_made_waits_for_it(registry, name):
    version = registry.version(f"free-{name}")

    def other():
        registry.second.set_registered_model_alias(version.name, "champion", 1)

    with under_the_lock(registry, other) as answers:
        registry.first.rename_registered_model(version.name, f"plain-{name}")
    assert answers == ["RESOURCE_DOES_NOT_EXIST"]
    assert registry.champion(f"plain-{name}") is None


def test_a_prompt_that_gets_a_real_version_just_before_a_rename_is_no_prompt(registry, name):
    registry.first.create_registered_model(f"free-{name}", PROMPT)

    def other():
        made = registry.second.create_model_version(f"free-{name}", f"models:/{registry.logged('ab')}")
        registry.second.set_registered_model_alias(f"free-{name}", "champion", made.version)

    with just_before_the_lock(registry, other):
        found = said(registry.first.rename_registered_model, f"free-{name}", f"plain-{name}")
    assert found == "PERMISSION_DENIED"


def test_a_prompt_that_gets_a_real_version_just_before_its_alias_is_no_prompt(registry, name):
    registry.first.create_registered_model(f"plain-{name}", PROMPT)
    registry.first.create_model_version(f"plain-{name}", "prompt-template")

    def other():
        registry.second.create_model_version(f"plain-{name}", f"models:/{registry.logged('ab')}")

    with just_before_the_lock(registry, other):
        found = said(registry.first.set_registered_model_alias, f"plain-{name}", "champion", 1)
    assert found == "PERMISSION_DENIED"
    assert said(registry.first.set_registered_model_alias, f"plain-{name}", "champion", 2) == "PERMISSION_DENIED"


def test_a_version_that_took_the_name_of_the_measured_one_is_not_believed(registry, name):
    """Not even with a copy of its signed evidence."""
    measured = registry.version(f"signed-{name}", "aa")
    tag = tag_of(sign_evidence(proof(measured), "secret"))
    registry.first.set_model_version_tag(measured.name, 1, ModelVersionTag(*tag))
    registry.version(f"spare-{name}", "bb", [tag])

    def other():
        registry.second.rename_registered_model(measured.name, f"gone-{name}")
        registry.second.rename_registered_model(f"spare-{name}", measured.name)

    with just_before_the_lock(registry, other):
        found = said(registry.first.set_registered_model_alias, measured.name, "champion", 1)
    assert found == "PERMISSION_DENIED"
    assert registry.champion(measured.name) is None


def test_a_promotion_just_before_another_is_seen_by_it(registry, name):
    versions = [registry.version(f"plain-{name}") for _ in range(2)]
    for version in versions:
        registry.measure(version)

    def other():
        registry.second.set_registered_model_alias(f"plain-{name}", "champion", 1)

    with just_before_the_lock(registry, other):
        found = said(registry.first.set_registered_model_alias, f"plain-{name}", "champion", 2)
    assert found == "RESOURCE_CONFLICT"
    assert [(each.before, each.after) for each in registry.moves(f"plain-{name}")] == [(None, 1)]


def test_evidence_is_not_changed_just_after_it_made_a_champion(registry, name):
    version = registry.version(f"plain-{name}")
    registry.measure(version)
    better = ModelVersionTag(*tag_of(proof(version, images=10**6)))

    def other():
        registry.second.set_registered_model_alias(version.name, "champion", 1)

    with just_before_the_lock(registry, other):
        assert said(registry.first.set_model_version_tag, version.name, 1, better) == "PERMISSION_DENIED"


@pytest.mark.parametrize("method", ["delete_model_version", "delete_registered_model"])
def test_what_became_champion_just_now_is_not_deleted(registry, name, method):
    version = registry.version(f"plain-{name}")
    registry.measure(version)
    arguments = [version.name, 1] if method == "delete_model_version" else [version.name]

    def other():
        registry.second.set_registered_model_alias(version.name, "champion", 1)

    with just_before_the_lock(registry, other):
        assert said(getattr(registry.first, method), *arguments) == "PERMISSION_DENIED"
    assert registry.champion(version.name) == 1


def test_a_version_deleted_just_before_its_promotion_is_not_champion(registry, name):
    version = registry.version(f"plain-{name}")
    registry.measure(version)

    def other():
        registry.second.delete_model_version(version.name, 1)

    with just_before_the_lock(registry, other):
        found = said(registry.first.set_registered_model_alias, version.name, "champion", 1)
    assert found == "RESOURCE_DOES_NOT_EXIST"
    assert registry.champion(version.name) is None


def test_an_approval_written_just_before_a_rename_does_not_come_along(registry, name):
    version = registry.version(f"free-{name}")

    def other():
        for key, value in (("approved", "true"), ("approved.by", "the boss"), ("kept", "1")):
            registry.second.set_model_version_tag(version.name, 1, ModelVersionTag(key, value))

    with just_before_the_lock(registry, other):
        registry.first.rename_registered_model(version.name, f"approved-{name}")
    assert registry.first.get_model_version(f"approved-{name}", 1).tags == {"kept": "1"}


def test_a_write_that_fails_leaves_nothing_and_gives_the_lock_back(registry, name):
    first = registry.promoted(f"plain-{name}")
    second = registry.version(f"plain-{name}")
    registry.measure(second, first)
    before = registry.moves(first.name)

    def fail(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO registered_model_tags"):  # the history's entry, after the alias
            raise MlflowException("the disk is full")

    event.listen(registry.first.engine, "before_cursor_execute", fail)
    assert said(registry.first.set_registered_model_alias, first.name, "champion", 2) == "INTERNAL_ERROR"
    event.remove(registry.first.engine, "before_cursor_execute", fail)
    assert registry.champion(first.name) == 1
    assert registry.moves(first.name) == before
    assert said(registry.second.set_registered_model_alias, first.name, "champion", 2) == "done"


def test_who_loses_the_lock_on_the_way_writes_nothing(registry, name):
    """As MLflow's own retry after a conflict would: it rolls back and goes on."""
    registry.first.create_registered_model(f"free-{name}")

    def lose():
        with registry.first.transaction() as session:
            session.rollback()
            registry.first.set_registered_model_tag(f"free-{name}", RegisteredModelTag("a", "1"))

    assert said(lose) == "TEMPORARILY_UNAVAILABLE"
    assert registry.first.get_registered_model(f"free-{name}").tags == {}


def test_every_write_takes_the_lock_first(registry, name):
    """Also those of methods without a rule, such as a description or a webhook."""
    statements = []

    def listen(connection, cursor, statement, *_):
        statements.append(statement)

    registry.version(f"free-{name}")
    calls = [
        ("update_registered_model", f"free-{name}", "of the sky"),
        ("update_model_version", f"free-{name}", 1, "of the sky"),
        ("create_registered_model", f"new-{name}"),
        ("create_model_version", f"free-{name}", "s3://bucket/x"),
        ("set_registered_model_alias", f"free-{name}", "champion", 1),
        ("delete_registered_model_alias", f"free-{name}", "champion"),
        ("set_registered_model_tag", f"free-{name}", RegisteredModelTag("a", "1")),
        ("delete_registered_model_tag", f"free-{name}", "a"),
        ("set_model_version_tag", f"free-{name}", 1, ModelVersionTag("a", "1")),
        ("delete_model_version_tag", f"free-{name}", 1, "a"),
        ("transition_model_version_stage", f"free-{name}", 1, "Staging", False),
        ("delete_model_version", f"free-{name}", 1),
        ("rename_registered_model", f"free-{name}", f"freed-{name}"),
        ("delete_registered_model", f"freed-{name}"),
    ]
    event.listen(registry.first.engine, "before_cursor_execute", listen)
    for method, *arguments in calls:
        statements.clear()
        getattr(registry.first, method)(*arguments)
        real = [each for each in statements if not each.startswith(("PRAGMA", "SET LOCAL"))]
        assert takes_the_lock(real[0]), (method, real)
        assert sum(map(takes_the_lock, real)) == 1, method
    event.remove(registry.first.engine, "before_cursor_execute", listen)


def test_a_replica_that_lags_behind_decides_nothing(tmp_path, empty_database, monkeypatch):
    """It still is empty, but the champion of the primary database is what counts."""
    for name in ("mlflow.db", "replica.db"):
        shutil.copy(empty_database, tmp_path / name)
    (tmp_path / "policy.yaml").write_text(RULES)
    monkeypatch.setenv("MLFLOW_RESNET_GATE_POLICY", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("MLFLOW_RESNET_GATE_KEY", "secret")
    monkeypatch.setenv(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{tmp_path}/replica.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        lagging = Registry(uri, tmp_path)
        first = lagging.promoted("plain")
        second = lagging.version("plain")
        lagging.measure(second)
        assert said(lagging.first.set_registered_model_alias, "plain", "champion", 2) == "RESOURCE_CONFLICT"
        assert said(lagging.first.delete_model_version, "plain", 1) == "PERMISSION_DENIED"
        assert said(lagging.first.rename_registered_model, "plain", "free") == "PERMISSION_DENIED"
        assert said(lagging.first.get_registered_model, "plain") == "RESOURCE_DOES_NOT_EXIST"
        lagging.measure(second, first)
        assert said(lagging.first.set_registered_model_alias, "plain", "champion", 2) == "done"
    finally:
        mlflow.set_tracking_uri(before)
