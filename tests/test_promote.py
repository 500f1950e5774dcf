import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mlflow
import pytest
from helpers import how_it_ends, run_main, write_picture
from mlflow import MlflowClient

import mlflow_resnet
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError, PromotionRefusedError
from mlflow_resnet.options import ChampionOptions, HistoryOptions, PromoteOptions
from mlflow_resnet.registry import aliases, evidence, promotion
from mlflow_resnet.registry.names import is_evidence_key
from mlflow_resnet.registry.promotion import PROMOTION_KEYS
from mlflow_resnet.verbs.promote import promote

NAME = "promoted-colors"
CLAIM_SECONDS = aliases.CLAIM_SECONDS


@pytest.fixture(scope="module")
def models(trained):
    """The URI of a model that knows its colors, and of one with random weights."""
    random = mlflow_resnet.new_classifier("resnet18", trained.classifier.classes, trained.classifier.preprocessing)
    with mlflow.start_run():
        return [mlflow_resnet.log_model(classifier).model_uri for classifier in (trained.classifier, random)]


@pytest.fixture(autouse=True)
def short_claims(monkeypatch):
    """A claim waits for others who move the alias at the same time; most tests have no others."""
    monkeypatch.setattr(aliases, "CLAIM_SECONDS", 0.05)


@pytest.fixture
def real_claims(short_claims, monkeypatch):
    monkeypatch.setattr(aliases, "CLAIM_SECONDS", CLAIM_SECONDS)


@pytest.fixture
def versions(models):
    """Version 1, which knows its colors, and version 2, which has random weights. No alias is set."""
    client = MlflowClient()
    for uri in models:
        mlflow.register_model(uri, NAME)
    yield client
    client.delete_registered_model(NAME)


def champion():
    return str(MlflowClient().get_model_version_by_alias(NAME, "champion").version)


def options(images, version, **changes):
    return PromoteOptions(model_uri=f"models:/{NAME}/{version}", image_dir=str(images / "val"), **changes)


def test_the_first_version_becomes_champion_without_a_comparison(versions, images):
    comparison = promote(options(images, 1))
    assert champion() == "1"
    assert comparison.champion is None
    assert "there is no champion yet" in str(comparison)


def test_a_worse_version_is_refused_with_exit_3_and_the_champion_stays(versions, images):
    promote(options(images, 1))
    result = run_main("promote", "--model-uri", f"models:/{NAME}/2", "--image-dir", images / "val")
    assert result.returncode == 3
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith(
        "mlflow-resnet: not promoted: on 12 images, top1_accuracy of promoted-colors version 2 is"
    )
    assert "of the champion, version 1, 1.0000" in last_line
    assert champion() == "1"
    tags = versions.get_model_version(NAME, "2").tags
    assert tags["mlflow_resnet_promotion_result"] == "refused"
    assert tags["mlflow_resnet_promotion_champion_value"] == "1.0"
    assert tags["mlflow_resnet_promotion_champion_version"] == "1"


def test_a_worse_version_is_promoted_within_max_drop(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    assert champion() == "2"


def test_a_better_version_is_promoted_and_tagged(versions, images):
    promote(options(images, 2))
    result = run_main("promote", "--model-uri", f"models:/{NAME}/1", "--image-dir", images / "val")
    assert result.returncode == 0, result.stderr
    assert "@champion now points to models:/promoted-colors/1\n" in result.stdout
    assert "by nobody: this server has no gate" in result.stdout
    assert champion() == "1"
    tags = versions.get_model_version(NAME, "1").tags
    assert (tags["mlflow_resnet_promotion_result"], tags["mlflow_resnet_promotion_value"]) == ("promoted", "1.0")
    assert len(tags["mlflow_resnet_promotion_dataset_digest"]) == 16


def test_a_class_that_only_the_candidate_knows_is_told_of_the_champion(versions, trained, images, tmp_path):
    promote(options(images, 1))
    classes = [*trained.classifier.classes, "owl"]
    wider = mlflow_resnet.new_classifier("resnet18", classes, trained.classifier.preprocessing)
    with mlflow.start_run():
        mlflow_resnet.log_model(wider, registered_model_name=NAME)
    write_picture(shutil.copytree(images / "val", tmp_path / "test") / "owl" / "1.png", (0, 0, 0), 1)
    result = run_main("promote", "--model-uri", f"models:/{NAME}/3", "--image-dir", tmp_path / "test")
    assert result.returncode == 2
    last_line = result.stderr.splitlines()[-1]
    assert f"class folders 'owl' are unknown to the present @champion, models:/{NAME}/1, which has" in last_line
    assert f"models:/{NAME}/3 knows them, so the two cannot be compared on these images. Give images of" in last_line
    assert f"delete_registered_model_alias('{NAME}', 'champion')" in last_line
    assert champion() == "1"
    result = run_main("promote", "--model-uri", f"models:/{NAME}/2", "--image-dir", tmp_path / "test")
    assert f"class folders 'owl' are unknown to models:/{NAME}/2, which has" in result.stderr.splitlines()[-1]


def test_the_champion_itself_stays_champion(versions, images):
    promote(options(images, 1))
    promote(options(images, 1))
    assert champion() == "1"


def test_repeated_it_keeps_what_the_version_was_compared_with(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    before = versions.get_model_version(NAME, "2").tags
    assert before["mlflow_resnet_promotion_champion_version"] == "1"
    versions.set_model_version_tag(NAME, "2", "mlflow_resnet_promotion_result", "pending")  # cut off before its end
    promote(options(images, 2, max_drop=1.0))
    assert versions.get_model_version(NAME, "2").tags == before
    assert champion() == "2"


def test_a_lower_log_loss_is_better(versions, images):
    promote(options(images, 2))
    promote(options(images, 1, metric="log_loss"))
    assert champion() == "1"
    assert (
        run_main(
            "promote", "--model-uri", f"models:/{NAME}/2", "--image-dir", images / "val", "--metric", "log_loss"
        ).returncode
        == 3
    )


def test_an_alias_that_somebody_moved_meanwhile_is_not_overwritten(versions, images):
    comparison = promote(options(images, 1, measure_only=True))
    versions.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionRefusedError, match="was moved to version 2 meanwhile"):
        promotion.promote_candidate(comparison, max_drop=0.0)
    assert champion() == "2"
    assert versions.get_model_version(NAME, "1").tags["mlflow_resnet_promotion_result"] == "refused"


def test_of_two_at_once_one_wins_and_the_other_hears_of_it(versions, images, real_claims):
    compared = [promote(options(images, version, measure_only=True)) for version in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(how_it_ends, compared))
    (refused,) = [end for end in ends if end != "promoted"]
    assert "at this moment" in refused or "meanwhile" in refused
    (entry,) = mlflow_resnet.history(HistoryOptions(name=NAME))
    assert str(entry.after) == champion()


def test_after_a_refusal_nobody_claims_the_alias_any_more(versions, images):
    comparison = promote(options(images, 1, measure_only=True))
    versions.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionRefusedError, match="was moved to version 2 meanwhile"):
        promotion.promote_candidate(comparison, max_drop=0)
    assert not [key for key in versions.get_registered_model(NAME).tags if "claim" in key]
    assert versions.get_model_version(NAME, "1").tags["mlflow_resnet_promotion_result"] == "refused"


def test_who_says_for_the_server_that_it_has_a_gate_is_not_believed(versions, images, capsys, real_claims):
    """The history is written, and two at once hear of each other, as on any plain server."""
    versions.set_registered_model_tag(NAME, "mlflow_resnet.gate", "champion")
    assert not promote(options(images, 1)).is_guarded
    said = capsys.readouterr().err
    assert said.count("mlflow_resnet.gate of promoted-colors was written by a client, and is removed: this server") == 1
    assert [(each.action, each.after) for each in mlflow_resnet.history(HistoryOptions(name=NAME))] == [("promote", 1)]
    comparison = promote(options(images, 2, measure_only=True))
    versions.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(PromotionRefusedError, match="was moved to none meanwhile"):
        promotion.promote_candidate(comparison, max_drop=1)


def test_the_evidence_says_what_was_measured_of_what(versions, images, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_GATE_KEY", "secret")
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    (text,) = [v for k, v in versions.get_model_version(NAME, "2").tags.items() if is_evidence_key(k)]
    found = evidence.from_text(text)
    assert (found.name, found.version, found.images, found.alias) == (NAME, 2, 12, "champion")
    assert found.model_id == versions.get_model_version(NAME, "2").source.removeprefix("models:/")
    assert found.champion.version == 1
    assert found.champion.metrics["top1_accuracy"] == 1.0
    wrong = round(12 * (1 - found.metrics["top1_accuracy"]))
    assert (found.champion.only_champion_right, found.champion.only_candidate_right) == (wrong, 0)
    assert found.champion.p_value == pytest.approx(0.5 ** (wrong - 1))
    assert evidence.has_valid_signature(found, "secret")
    assert not evidence.has_valid_signature(found, "guessed")
    assert not evidence.has_valid_signature(found.model_copy(update={"images": 13}), "secret")


def test_measuring_only_leaves_the_alias_to_somebody_else(versions, images):
    arguments = ["--model-uri", f"models:/{NAME}/1", "--image-dir", images / "val", "--measure-only", "true"]
    result = run_main("promote", *arguments)
    assert result.returncode == 0, result.stderr
    assert f"models:/{NAME}/1 has the evidence (not signed); @champion stays where it is" in result.stdout
    assert versions.get_registered_model(NAME).aliases == {}


def test_history_tells_who_moved_what_and_rollback_goes_back(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    result = run_main("rollback", "--name", NAME)
    assert result.stdout == f"@champion now points to models:/{NAME}/1 again, no more to version 2\n", result.stderr
    assert champion() == "1"
    moves = [
        (entry.action, entry.before, entry.after)
        for entry in mlflow_resnet.history(HistoryOptions(name=NAME, alias="champion"))
    ]
    assert moves == [("promote", None, 1), ("promote", 1, 2), ("rollback", 2, 1)]
    lines = run_main("history", "--name", NAME).stdout.splitlines()
    assert len(lines) == 3
    assert "rollback  @champion from version 2 to version 1  by " in lines[2]


def test_what_was_written_under_the_keys_of_before_is_read_and_goes_on(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    (first, second) = mlflow_resnet.history(HistoryOptions(name=NAME))
    tags = versions.get_model_version(NAME, "2").tags
    found = evidence.from_text(tags[second.evidence]).model_copy(update={"format": 2})
    versions.set_model_version_tag(NAME, "2", found.tag, evidence.to_text(found))
    versions.delete_model_version_tag(NAME, "2", second.evidence)
    for entry in (first, replace(second, evidence=found.tag)):
        versions.set_registered_model_tag(NAME, entry.keys[1], entry.to_text())
        versions.delete_registered_model_tag(NAME, entry.keys[0])
    for name in ("alias", "champion_version", "result"):
        versions.set_model_version_tag(NAME, "2", f"mlflow_resnet.promotion.{name}", tags[PROMOTION_KEYS[0] + name])
        versions.delete_model_version_tag(NAME, "2", PROMOTION_KEYS[0] + name)
    assert mlflow_resnet.champion(ChampionOptions(name=NAME)).evidence == found
    promote(options(images, 2))  # again, as after a kill
    assert versions.get_model_version(NAME, "2").tags["mlflow_resnet_promotion_result"] == "promoted"
    promote(options(images, 1))
    moves = mlflow_resnet.history(HistoryOptions(name=NAME))
    assert [(each.sequence, each.before, each.after) for each in moves] == [(1, None, 1), (2, 1, 2), (3, 2, 1)]
    assert run_main("rollback", "--name", NAME).returncode == 0
    assert champion() == "2"


def test_rolling_back_twice_does_not_return_to_what_was_bad(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    run_main("rollback", "--name", NAME)
    result = run_main("rollback", "--name", NAME)
    assert result.returncode == 3
    assert f"@champion of {NAME} stays where it is: there was no champion before version 1." in result.stderr
    assert champion() == "1"


def test_rollback_refuses_a_version_that_is_gone(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    versions.delete_model_version(NAME, "1")
    result = run_main("rollback", "--name", NAME)
    assert result.returncode == 3
    assert "version 1, the champion before, was deleted" in result.stderr
    assert champion() == "2"


def test_rollback_refuses_a_history_without_its_beginning(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    versions.delete_registered_model_tag(NAME, mlflow_resnet.history(HistoryOptions(name=NAME))[0].tag)
    result = run_main("rollback", "--name", NAME)
    assert result.returncode == 3
    assert "of its history all before move 2 is gone" in result.stderr
    assert champion() == "2"


def test_rollback_refuses_what_the_history_does_not_know(versions):
    versions.set_registered_model_alias(NAME, "champion", "2")
    result = run_main("rollback", "--name", NAME)
    assert result.returncode == 3
    assert "the history does not know version 2, which has it" in result.stderr


def test_history_shows_where_somebody_moved_the_alias_by_other_means(versions, images):
    promote(options(images, 2))
    versions.set_registered_model_alias(NAME, "champion", "1")
    promote(options(images, 2, max_drop=1.0))
    lines = run_main("history", "--name", NAME, "--alias", "champion").stdout.splitlines()
    assert lines[1].strip() == "(by other means it came to version 1)"
    run_main("rollback", "--name", NAME)
    assert champion() == "1"


def test_champion_tells_which_version_why_and_that_nobody_guards_it(versions, images):
    promote(options(images, 1))
    shown = run_main("champion", "--name", NAME).stdout
    assert f"@champion of {NAME} is version 1\n" in shown
    assert "promote by " in shown
    assert "12 images of val (digest " in shown
    assert "top1_accuracy       1.0000" in shown
    assert "this server has no gate" in shown


@pytest.mark.parametrize("command", [["champion"], ["history"], ["rollback"]])
def test_an_unknown_name_is_told(command, tracking):
    result = run_main(*command, "--name", "nobody")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("mlflow-resnet: ")]
    assert "nobody" in line
    assert "not in the registry" in line


@pytest.mark.parametrize("uri", ["models:/promoted-colors/9", "models:/no-such-name/1", "runs:/abc/model", "folder"])
def test_what_is_no_registered_version_is_refused(versions, images, uri):
    with pytest.raises(InvalidModelError, match=uri):
        promote(PromoteOptions(model_uri=uri, image_dir=str(images / "val")))


def test_top5_of_three_classes_is_no_metric(versions, images):
    with pytest.raises(InvalidOptionsError, match="metric is 'top5_accuracy', which these classes do not have"):
        promote(options(images, 1, metric="top5_accuracy"))
