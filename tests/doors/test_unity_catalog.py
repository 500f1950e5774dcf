"""Train, promote and roll back on a registry that refuses what Unity Catalog does, with limits hit on purpose."""

from __future__ import annotations

import mlflow
import pytest
from helpers import TINY, flags, mlflow_server, run_main
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import mlflow_resnet
from doors.unity_catalog_proxy import LONGEST_VALUE, unity_catalog
from mlflow_resnet.options import ChampionOptions, HistoryOptions, PromoteOptions
from mlflow_resnet.registry import alias_history, aliases
from mlflow_resnet.registry.alias_history import Move
from mlflow_resnet.registry.names import format_older_key, is_evidence_key, is_history_key
from mlflow_resnet.verbs.promote import promote

pytestmark = pytest.mark.slow
NAME = "main.vision.colors"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """The proxy, which this process and its children speak to, before a server with artifacts of its own."""
    before = mlflow.get_tracking_uri()
    with (
        mlflow_server(tmp_path_factory.mktemp("catalog")) as url,
        unity_catalog(url) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", found.url)
        patch.setattr(aliases, "CLAIM_SECONDS", 0.02)
        mlflow.set_tracking_uri(found.url)
        yield found
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def versions(catalog, images, tmp_path_factory) -> MlflowClient:
    """Version 1, of a training that registered it as champion, and 2, which has random weights."""
    given = TINY | {"epochs": 8, "registered_model_name": NAME, "alias": "champion"}
    given |= {"train_dir": images / "train", "val_dir": images / "val"}
    given |= {"checkpoint_dir": tmp_path_factory.mktemp("checkpoints")}
    result = run_main("train", *flags(given))
    assert result.returncode == 0, result.stderr
    assert f"registry  models:/{NAME}/1, alias champion" in result.stdout
    trained = mlflow_resnet.load_model(f"models:/{NAME}/1")
    random = mlflow_resnet.new_classifier("resnet18", trained.classes, trained.preprocessing)
    with mlflow.start_run():
        mlflow_resnet.log_model(random, registered_model_name=NAME)
    return MlflowClient()


@pytest.fixture
def accepted(catalog):
    """What the test has the package ask, the registry takes."""
    count = len(catalog.requests)
    yield
    assert [each for each in catalog.requests[count:] if each[2]] == []


def options(version: int, image_dir, **changes) -> PromoteOptions:
    return PromoteOptions(model_uri=f"models:/{NAME}/{version}", image_dir=str(image_dir), **changes)


def test_the_registry_refuses_what_unity_catalog_does(catalog, versions):
    """Else what follows would show nothing."""
    tries = [
        lambda: versions.set_registered_model_tag(NAME, "a.b", "1"),
        lambda: versions.set_model_version_tag(NAME, "1", "a-b", "1"),
        lambda: versions.set_model_version_tag(NAME, "1", "a", "1" * (LONGEST_VALUE + 1)),
        lambda: [versions.set_registered_model_tag(NAME, f"own_{number}", "1") for number in range(51)],
        lambda: versions.create_registered_model("colors"),
        lambda: versions.search_model_versions(f"name = '{NAME}' AND run_id = 'x'"),
        lambda: versions.search_model_versions(f"name = '{NAME}'", order_by=["version_number ASC"]),
        lambda: versions.transition_model_version_stage(NAME, "1", "Production"),
        lambda: versions.create_model_version(NAME, f"models:/{versions.create_logged_model('0').model_id}"),
    ]
    for each in tries:
        with pytest.raises(MlflowException, match=r"not allowed|characters|tags|expected|not supported|no signature"):
            each()
    for number in range(51):
        versions.delete_registered_model_tag(NAME, f"own_{number}")


def test_three_promotions_a_rollback_and_the_history(versions, images, accepted, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_RESNET_GATE_KEY", "secret")
    versions.delete_registered_model_alias(NAME, "champion")
    promote(options(1, images / "val"))
    promote(options(2, images / "val", max_drop=1.0))
    promote(options(1, images / "val"))
    assert run_main("rollback", "--name", NAME).returncode == 0
    moves = mlflow_resnet.history(HistoryOptions(name=NAME))
    assert [(each.action, each.before, each.after) for each in moves] == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("promote", 2, 1),
        ("rollback", 1, 2),
    ]
    shown = run_main("champion", "--name", NAME).stdout
    assert f"@champion of {NAME} is version 2\n" in shown
    assert promote(options(1, images / "val")).evidence.champion.version == 2
    champion = mlflow_resnet.champion(ChampionOptions(name=NAME))
    assert champion.evidence.signature
    assert champion.evidence.champion.version == 2
    assert champion.evidence.metrics.keys() == champion.evidence.champion.metrics.keys()
    scored = ("--image-dir", images / "val", "--output", tmp_path / "scores.csv")
    assert run_main("score", "--model-uri", f"models:/{NAME}@champion", *scored).returncode == 0


def test_evidence_with_names_too_long_for_a_tag_is_an_artifact_of_the_run(versions, images, accepted, tmp_path):
    data = tmp_path / ("pictures_of_the_" + "very_" * 44 + "last_year")
    data.symlink_to(images / "val")
    user = "somebody_" * 25
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGNAME", user)
        promote(options(2, data, max_drop=1.0))
    (text,) = [
        text
        for key, text in versions.get_model_version(NAME, "2").tags.items()
        if is_evidence_key(key) and text.startswith("runs:/")
    ]
    shown = mlflow_resnet.champion(ChampionOptions(name=NAME))
    assert (shown.evidence.dataset_name, shown.evidence.measured_by) == (data.name, user)
    assert versions.get_model_version(NAME, "2").run_id in text


def test_of_sixty_promotions_every_one_is_in_the_history_and_few_are_tags(catalog, versions, images, accepted):
    for name in ("contender", "my_other-one"):
        for number in range(60 if name == "contender" else 7):
            before = 2 - number % 2 if number else None
            aliases.move_alias(Move(NAME, name, before, 1 + number % 2, alias_history.PROMOTE, "ab" * 32))
    moves = mlflow_resnet.history(HistoryOptions(name=NAME, alias="contender"))
    assert [each.sequence for each in moves] == list(range(1, 61))
    assert [each.after for each in moves] == [1 + number % 2 for number in range(60)]
    assert len(mlflow_resnet.history(HistoryOptions(name=NAME, alias="my_other-one"))) == 7
    assert len(mlflow_resnet.history(HistoryOptions(name=NAME))) >= 67
    tags = versions.get_registered_model(NAME).tags
    assert 10 <= len([key for key in tags if is_history_key(key)]) <= 30
    assert run_main("rollback", "--name", NAME, "--alias", "contender").returncode == 0
    assert versions.get_model_version_by_alias(NAME, "contender").version == "1"


def test_an_older_history_that_somebody_changed_is_told_and_no_way_back(versions, capsys):
    """That of the sixty promotions before."""
    key = format_older_key("contender")
    uri = versions.get_registered_model(NAME).tags[key]
    run_id, _, path = uri.removeprefix("runs:/").partition("/")
    versions.log_text(run_id, "[]", path)
    moves = mlflow_resnet.history(HistoryOptions(name=NAME, alias="contender"))
    assert 1 < len(moves) < 30
    assert "the older history is not shown: runs:/" in capsys.readouterr().err
    result = run_main("rollback", "--name", NAME, "--alias", "contender")
    assert result.returncode == 3
    assert "was changed: it does not have the digest that is its name" in result.stderr.splitlines()[-1]
