"""Every way to move a guarded alias, tried against a real server as anybody with curl can."""

import json
import time

import mlflow
import pytest
import yaml
from gate_server import proof, tag_of

from mlflow_resnet.registry import alias_history, evidence, names
from mlflow_resnet.registry.gate.policy import SECONDS_BETWEEN_LOOKS

PROMPT_TAG = {"key": "mlflow.prompt.is_prompt", "value": "true"}


def refused(answer, said, status=403):
    assert answer.status == status, answer
    assert answer.body["error_code"] == {403: "PERMISSION_DENIED", 409: "RESOURCE_CONFLICT"}[status]
    assert said in answer.message


def test_what_was_not_measured_is_refused_with_the_command_to_run(gate):
    version = gate.register("colors unmeasured")
    refused(
        gate.move(version), "no evidence for @champion: it was not measured. Run: mlflow-resnet promote --model-uri "
    )
    assert "--model-uri 'models:/colors unmeasured/1' --image-dir <the data set>." in gate.move(version).message
    assert gate.champion("colors unmeasured") is None


def test_what_was_measured_becomes_champion_and_the_history_says_so(gate):
    first = gate.promoted("colors history")
    second = gate.promoted("colors history", first)
    entries = gate.history("colors history")
    assert [(each.sequence, each.action, each.before, each.after) for each in entries] == [
        (1, "promote", None, 1),
        (2, "promote", 1, 2),
    ]
    assert entries[1].who == "somebody at 127.0.0.1"
    assert entries[1].model_sha256 == second.weights
    assert entries[1].evidence == proof(second).tag
    assert len(entries[1].policy) == 12
    assert gate.champion("colors history") == 2


def test_a_worse_version_is_refused(gate):
    first = gate.promoted("colors worse")
    second = gate.register("colors worse")
    gate.measure(second, first, metrics={"top1_accuracy": 0.85})
    refused(gate.move(second), "worse by 0.05; allowed are 0.02")
    gate.measure(second, first, metrics={"top1_accuracy": 0.7}, dataset_digest="another")
    refused(gate.move(second), "worse by 0.05")  # of two measurements the better one is told
    assert gate.champion("colors worse") == 1


def test_who_is_overtaken_is_told_by_whom(gate):
    first = gate.promoted("colors race")
    second, third = gate.register("colors race"), gate.register("colors race")
    for version in (second, third):
        gate.measure(version, first)
    assert gate.move(second).status == 200
    said = "measured against version 1, but version 2 is @champion now, since 20"
    refused(gate.move(third), said, status=409)
    refused(gate.move(third), "moved by somebody at 127.0.0.1", status=409)


def test_told_twice_it_moves_once(gate):
    version = gate.promoted("colors twice")
    assert gate.move(version).status == 200
    assert len(gate.history("colors twice")) == 1


def test_one_step_back_needs_no_evidence_and_two_do(gate):
    first = gate.promoted("colors back")
    second = gate.promoted("colors back", first)
    third = gate.promoted("colors back", second)
    refused(gate.move(first), "measured against none", status=409)
    assert gate.move(second).status == 200
    assert [each.action for each in gate.history("colors back")][-1] == alias_history.ROLLBACK
    gate.done("DELETE", "model-versions/delete", **third.key)
    assert gate.move(third).status == 404
    assert gate.champion("colors back") == 2


def test_another_letter_case_is_the_same_alias(gate):
    version = gate.register("colors case")
    refused(gate.move(version, "Champion"), "no evidence for @Champion")
    refused(gate.move(gate.register("COLORS upper")), "no evidence")


def test_unguarded_aliases_and_models_are_free(gate):
    assert gate.move(gate.register("colors free"), "challenger").status == 200
    version = gate.register("shapes")
    assert gate.move(version).status == 200
    assert gate.send("DELETE", "registered-models/alias", name="shapes", alias="champion").status == 200
    gate.done("POST", "model-versions/transition-stage", **version.key, stage="Production")
    gate.done("POST", "registered-models/rename", name="shapes", new_name="forms")
    assert gate.history("forms") == []
    gate.done("DELETE", "registered-models/delete", name="forms")


def test_the_alias_cannot_be_removed(gate):
    gate.promoted("colors removed")
    refused(
        gate.send("DELETE", "registered-models/alias", name="colors removed", alias="champion"), "may not be removed"
    )
    assert gate.champion("colors removed") == 1


def test_where_the_rules_allow_it_a_removal_is_recorded(gate):
    gate.promoted("removable")
    gate.done("DELETE", "registered-models/alias", name="removable", alias="champion")
    first = gate.register("removable")
    gate.measure(first)
    assert gate.move(first).status == 200
    gate.done("DELETE", "model-versions/delete", **first.key)
    actions = [(each.action, each.before, each.after) for each in gate.history("removable")]
    assert actions == [("promote", None, 1), ("remove", 1, None), ("promote", None, 2), ("remove", 2, None)]


def test_the_champion_cannot_be_deleted_nor_its_model(gate):
    version = gate.promoted("colors deleted")
    refused(gate.send("DELETE", "model-versions/delete", **version.key), "may not be deleted: it is @champion")
    refused(gate.send("DELETE", "registered-models/delete", name="colors deleted"), "while it has @champion")
    assert gate.champion("colors deleted") == 1


def test_stages_are_no_second_way(gate):
    version = gate.register("colors staged")
    body = version.key | {"stage": "Production", "archive_existing_versions": False}
    refused(gate.send("POST", "model-versions/transition-stage", **body), "stages of colors staged may not be changed")


def test_a_copy_does_not_inherit_the_evidence(gate):
    source = gate.promoted("colors original")
    tags = [{"key": key, "value": value} for key, value in gate.tags(source).items()]
    assert tags
    copied = gate.register("colors copy", source.model_id, source="models:/colors original/1", tags=tags)
    refused(gate.move(copied), "name of the evidence is colors original; expected colors copy")
    copied = type(source)("colors copy", 1, source.model_id, source.weights)
    gate.measure(copied)
    assert gate.move(copied).status == 200  # measured itself, it is followed to the logged model that it is a copy of


def test_a_name_is_no_way_around(gate):
    version = gate.register("shapes renamed")
    gate.move(version)
    rename = {"name": "shapes renamed", "new_name": "colors renamed"}
    refused(gate.send("POST", "registered-models/rename", **rename), "may not be renamed to colors renamed")
    gate.promoted("colors kept")
    rename = {"name": "colors kept", "new_name": "shapes kept"}
    refused(gate.send("POST", "registered-models/rename", **rename), "while it has @champion")


def test_evidence_of_another_model_or_other_weights_is_refused(gate):
    version, other = gate.register("colors identity"), gate.register("colors identity")
    gate.tag(version, *tag_of(proof(other)))
    refused(gate.move(version), "version of the evidence is 2; expected 1")
    gate.tag(version, *tag_of(proof(version, model_sha256=other.weights)))
    refused(gate.move(version), f"model_sha256 of the evidence is {other.weights}; expected {version.weights}")


def test_a_version_without_a_logged_model_is_refused(gate):
    gate.send("POST", "registered-models/create", name="colors path")
    run = gate.done("POST", "runs/create", experiment_id="0")["run"]["info"]
    source = f"{run['artifact_uri']}/model"
    body = {"name": "colors path", "source": source, "run_id": run["run_id"]}
    gate.done("POST", "model-versions/create", **body)
    version = type(gate.register("colors path"))("colors path", 1, "m-1", "00")
    gate.measure(version)
    refused(gate.move(version), f"it is made from {source}; expected models:/<model id>")


def test_a_copy_whose_original_was_exchanged_is_refused(gate):
    """Its files were taken from the first original, and its evidence would be of the second."""
    bad, good = gate.register("shapes swapped"), gate.register("shapes good")
    gate.register("colors swapped", bad.model_id, source="models:/shapes swapped/1")
    gate.done("DELETE", "registered-models/delete", name="shapes swapped")
    gate.made.discard("shapes swapped")
    gate.register("shapes swapped", good.model_id)
    version = type(good)("colors swapped", 1, good.model_id, good.weights)
    gate.measure(version)
    refused(gate.move(version), "its files are not those of its logged model")


def test_a_logged_model_without_the_hash_of_its_weights_is_refused(gate):
    body = {"experiment_id": "0", "name": "model"}
    model_id = gate.done("POST", "logged-models", **body)["model"]["info"]["model_id"]
    version = gate.register("colors unhashed", model_id)
    gate.measure(type(version)("colors unhashed", 1, model_id, ""))
    refused(gate.move(version), "has no param model_sha256")


def test_the_hash_of_the_weights_cannot_be_changed(gate):
    version = gate.register("colors fixed")
    body = {"model_id": version.model_id, "params": [{"key": "model_sha256", "value": "00"}]}
    assert gate.send("POST", f"logged-models/{version.model_id}/params", **body).status >= 400
    assert gate.client.get_logged_model(version.model_id).params["model_sha256"] == version.weights


@pytest.mark.parametrize("form", [2, evidence.EVIDENCE_FORMAT])
def test_the_evidence_of_the_champion_cannot_be_changed(gate, form):
    """Nor that of before, under the keys of before."""
    version = gate.promoted(f"colors edited {form}", format=form)
    key, text = tag_of(proof(version, format=form))
    kept = gate.tags(version)[key]
    assert gate.history(version.name)[0].evidence == key
    for each in (key, key.upper(), names.format_evidence_keys("other", "champion")[form == 2]):
        body = version.key | {"key": each}
        refused(gate.send("POST", "model-versions/set-tag", **body, value=text), "it is why version 1 is @champion")
    refused(gate.send("DELETE", "model-versions/delete-tag", **version.key, key=key), "it is why version 1 is")
    gate.done("POST", "model-versions/set-tag", **version.key, key=key, value=kept)  # the same again is no change
    for each in names.format_evidence_keys("x", "challenger"):
        gate.tag(version, each, "free")
    assert gate.tags(version)[key] == kept


def test_evidence_under_the_key_of_another_format_is_none(gate):
    for form, other in ((2, 3), (3, 2)):
        version = gate.register(f"colors misplaced {form}")
        gate.tag(version, proof(version, format=other).tag, tag_of(proof(version, format=form))[1])
        refused(gate.move(version), "holds what belongs into")


def test_nobody_else_writes_the_history(gate):
    gate.promoted("colors written")
    forged = gate.history("colors written")[0]
    keys = [*names.format_entry_keys("champion", 2), *names.format_entry_keys("champion", 1)]
    keys += [names.format_older_key("champion"), names.format_older_key("champion").upper()]
    for name in ("colors written", "any other"):
        gate.send("POST", "registered-models/create", name=name)
        for key in keys:
            body = {"name": name, "key": key}
            said = "part of the history"
            refused(gate.send("POST", "registered-models/set-tag", **body, value=forged.to_text()), said)
            refused(gate.send("DELETE", "registered-models/delete-tag", **body), said)
    for key in keys:
        tags = [{"key": key, "value": forged.to_text()}]
        refused(gate.send("POST", "registered-models/create", name="colors new", tags=tags), "part of the history")
    assert gate.history("colors written") == [forged]


def test_a_model_cannot_call_itself_a_prompt(gate):
    gate.register("colors prompt")
    body = {"name": "colors prompt"} | PROMPT_TAG
    refused(gate.send("POST", "registered-models/set-tag", **body), "may not be changed")
    gate.done("POST", "registered-models/create", name="colors born a prompt", tags=[PROMPT_TAG])
    version = gate.register("colors born a prompt")
    refused(gate.move(version), "no evidence")
    refused(
        gate.send("DELETE", "registered-models/delete-tag", name="colors born a prompt", key=PROMPT_TAG["key"]), "may"
    )


def test_prompts_are_untouched(gate, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(gate.url)
    try:
        for text in ("Name the color of {{thing}}", "Which color has {{thing}}?"):
            mlflow.genai.register_prompt("colors-question", text)
        for version in (1, 2):
            mlflow.genai.set_prompt_alias("colors-question", "champion", version)
        assert mlflow.genai.load_prompt("prompts:/colors-question@champion").version == 2
        gate.client.delete_prompt_alias("colors-question", "champion")
        gate.client.delete_prompt_version("colors-question", "1")
        gate.client.delete_prompt_version("colors-question", "2")
        gate.client.delete_prompt("colors-question")
    finally:
        mlflow.set_tracking_uri(before)


def test_a_rule_that_is_only_tried_refuses_nothing_and_tells_what_it_would(gate):
    version = gate.register("tried")
    assert gate.move(version).status == 200
    said = gate.tags(version)["mlflow_resnet.gate.dry_run.champion"]
    assert "would be refused: version 1 of tried may not become @champion: no evidence" in said
    assert [each.action for each in gate.history("tried")] == [alias_history.FORCE]
    good = gate.promoted("tried", version)
    assert "mlflow_resnet.gate.dry_run.champion" not in gate.tags(good)
    assert [each.action for each in gate.history("tried")] == [alias_history.FORCE, alias_history.PROMOTE]
    body = version.key | {"key": "mlflow_resnet.gate.dry_run.champion"}
    refused(gate.send("DELETE", "model-versions/delete-tag", **body), "the gate's own")
    gate.done("DELETE", "registered-models/alias", name="tried", alias="champion")
    assert "dry run, would be refused" in next(gate.folder.glob("server-*.log")).read_text()


def test_an_approval_is_of_one_version_and_who_gave_it_cannot_be_forged(gate):
    version = gate.register("approved")
    gate.measure(version)
    refused(gate.move(version), "tag approved is missing; expected true, set by who approves")
    body = version.key | {"key": "approved.by", "value": "the boss"}
    refused(gate.send("POST", "model-versions/set-tag", **body), "the gate's own")
    gate.tag(version, "approved", "true")
    assert gate.tags(version)["approved.by"] == ""  # this server has no users
    tags = [{"key": "approved", "value": "true"}, {"key": "approved.by", "value": "the boss"}]
    copied = gate.register("approved", source="models:/approved/1", tags=tags)
    assert gate.tags(copied) == {}
    assert gate.move(version).status == 200
    gate.done("DELETE", "model-versions/delete-tag", **version.key, key="approved")
    assert not {"approved", "approved.by"} & set(gate.tags(version))


def test_flavor_and_signature_are_read_from_the_model_itself(gate, tmp_path):
    version = gate.register("filed")
    gate.measure(version)
    refused(gate.move(version), "its flavors are unknown; expected mlflow_resnet; its model has no signature")
    description = {"flavors": {"mlflow_resnet": {}, "python_function": {}}, "signature": {"inputs": "[]"}}
    (tmp_path / "MLmodel").write_text(yaml.safe_dump(description))
    gate.client.log_model_artifacts(version.model_id, str(tmp_path))
    answer = gate.move(version)
    assert answer.status == 200, answer


def test_the_rules_are_read_again_without_a_restart(gate):
    version = gate.register("late")
    assert gate.move(version).status == 200
    rules = gate.policy.read_text()
    beside = gate.policy.with_suffix(".new")
    beside.write_text(rules + "- {models: late, alias: champion}\n")
    beside.replace(gate.policy)
    second = gate.register("late")
    (log,) = gate.folder.glob("server-*.log")
    refused(gate.move(second), "no evidence")
    time.sleep(5 * SECONDS_BETWEEN_LOOKS)  # the other workers have looked too
    gate.policy.write_text("- {models: late, alias: champion, sign: true}\n")
    for _ in range(8):
        answer = gate.move(second)  # a worker that has no rules yet refuses everything
        assert (answer.status, "no evidence" in answer.message) in ((403, True), (400, False)), answer
    gate.policy.write_text(rules)
    assert gate.move(second).status == 200
    assert "'sign' is not a field" in log.read_text()
    assert "The rules stay as they were" in log.read_text()


def test_the_server_does_not_import_torch(gate):
    gate.promoted("colors light")
    import psutil

    (server,) = [
        each for each in psutil.process_iter(["cmdline"]) if gate.url.rpartition(":")[2] in (each.info["cmdline"] or ())
    ][:1]
    processes = [server, *server.children(recursive=True)]
    mapped = {mapping.path for each in processes for mapping in each.memory_maps()}
    assert any("sqlite3" in path or "psycopg" in path for path in mapped)
    assert not [path for path in mapped if "torch" in path]


def test_history_is_text_that_anybody_can_read(gate):
    gate.promoted("colors text")
    (tag,) = [tag for tag in gate.model("colors text")["tags"] if names.is_history_key(tag["key"])]
    facts = json.loads(tag["value"])
    assert (facts["from"], facts["to"], facts["action"]) == (None, 1, "promote")
    assert facts["time"].startswith(time.strftime("%Y-", time.gmtime()))
