"""Ways around the gate that were found, and what is like them, tried against a real server."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import requests
from gate_server import Version, proof
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from test_gate import PROMPT_TAG, refused

from mlflow_resnet.registry import alias_history, names
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.gate.plugin import build as build_store

APPROVED = [{"key": "approved", "value": "true"}, {"key": "approved.by", "value": "the boss"}]
OWN = [{"key": "mlflow_resnet.gate.dry_run.champion", "value": "fine"}, {"key": "Mlflow_Resnet.Gate", "value": "x"}]


def clients_entry(alias, policy=None, sequence=1):
    entry = alias_history.next_entry(
        None, alias_history.Move("", alias, None, 1, alias_history.PROMOTE), "a client", policy
    )
    return {"key": entry.tag, "value": entry.to_text()}


def test_approvals_do_not_come_along_with_a_name(gate):
    version = gate.register("free of approvals", tags=[*APPROVED, *OWN, {"key": "kept", "value": "1"}])
    assert gate.tags(version) == {"approved": "true", "approved.by": "the boss", "kept": "1"}
    gate.done("POST", "registered-models/rename", name="free of approvals", new_name="approved by rename")
    renamed = Version("approved by rename", 1, version.model_id, version.weights)
    assert gate.tags(renamed) == {"kept": "1"}
    gate.measure(renamed)
    refused(gate.move(renamed), "tag approved is missing")


def test_approvals_are_not_born_in_what_calls_itself_a_prompt(gate):
    gate.done("POST", "registered-models/create", name="approved prompt", tags=[PROMPT_TAG])
    version = gate.register("approved prompt", tags=[*APPROVED, *OWN])
    assert gate.tags(version) == {}
    gate.measure(version)
    refused(gate.move(version), "tag approved is missing")
    body = version.key | {"key": "approved.by", "value": "the boss"}
    refused(gate.send("POST", "model-versions/set-tag", **body), "the gate's own")


@pytest.mark.parametrize("name", ["free of own tags", "colors of own tags"])
def test_what_the_gate_writes_on_versions_nobody_else_writes_whatever_the_name(gate, name):
    version = gate.register(name)
    for tag in OWN:
        refused(gate.send("POST", "model-versions/set-tag", **version.key, **tag), "the gate's own")
        refused(gate.send("DELETE", "model-versions/delete-tag", **version.key, key=tag["key"]), "the gate's own")


def test_a_clients_history_does_not_come_along_with_a_name(gate):
    version = gate.register("free with history")
    tags = [clients_entry("champion"), clients_entry("challenger")]
    for tag in tags:
        gate.done("POST", "registered-models/set-tag", name=version.name, **tag)
    gate.done("POST", "registered-models/rename", name=version.name, new_name="colors with history")
    assert gate.history("colors with history") == []
    assert len(gate.history("colors with history", "challenger")) == 1


def test_nobody_says_for_the_gate_that_it_guards(gate):
    """Neither at once, nor at the birth of a model, nor in another letter case."""
    gate.register("free of the tag")
    for key in (GATE_TAG, f"{GATE_TAG}.x", f"{GATE_TAG}s", GATE_TAG.upper()):
        body = {"name": "free of the tag", "key": key, "value": "champion"}
        refused(gate.send("POST", "registered-models/set-tag", **body), "the gate's own; it may not be set")
        tags = [{"key": key, "value": "champion"}]
        refused(gate.send("POST", "registered-models/create", name="never born", tags=tags), "the gate's own")
    assert "tags" not in gate.model("free of the tag")


def test_what_is_guarded_is_told_by_search_too(gate):
    gate.register("colors found"), gate.register("free found")
    found = gate.done("GET", "registered-models/search", filter="name LIKE '%found'")["registered_models"]
    tags = {each["name"]: {tag["key"]: tag["value"] for tag in each.get("tags", ())} for each in found}
    assert tags == {"colors found": {GATE_TAG: "champion"}, "free found": {}}


def test_what_was_said_for_the_gate_before_there_was_one_is_not_shown(tmp_path, empty_database, monkeypatch):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "policy.yaml").write_text("- {models: guarded, alias: champion}\n")
    monkeypatch.setenv("MLFLOW_RESNET_GATE_POLICY", str(tmp_path / "policy.yaml"))
    plain, gated = (build(f"resnet-gate+sqlite:///{tmp_path}/mlflow.db") for build in (plain_store, build_store))
    for name in ("free", "guarded"):
        plain.create_registered_model(name, [RegisteredModelTag(GATE_TAG, "*"), RegisteredModelTag("a", "1")])
    expected = {"free": {"a": "1"}, "guarded": {"a": "1", GATE_TAG: "champion"}}
    assert {name: gated.get_registered_model(name).tags for name in expected} == expected
    assert {each.name: each.tags for each in gated.search_registered_models()} == expected
    assert gated.update_registered_model("free", "of the sky").tags == expected["free"]
    gated.rename_registered_model("free", "freed")
    assert gated.get_registered_model("freed").tags == {"a": "1"}
    gated.delete_registered_model_tag("freed", GATE_TAG)
    assert plain.get_registered_model("freed").tags == {"a": "1"}


def plain_store(uri):
    return SqlAlchemyStore(uri.removeprefix("resnet-gate+"))


def test_of_aliases_without_rules_clients_keep_the_history(gate):
    """`promote --alias challenger`, on a model whose champion is guarded."""
    name = gate.promoted("colors challenged").name
    entry = clients_entry("challenger")
    gate.done("POST", "registered-models/set-tag", name=name, **entry)
    assert len(gate.history(name, "challenger")) == 1
    said = "part of the history"
    for tag in (
        entry | {"value": entry["value"].replace("a client", "another")},  # it cannot be changed
        clients_entry("challenger", policy="0123456789ab") | {"key": "mlflow_resnet_history_challenger_000002"},
        clients_entry("champion"),
        clients_entry("Champion"),
        {"key": "mlflow_resnet.history.challenger", "value": "{}"},
        {"key": "mlflow_resnet.history.x y.000001", "value": "{}"},
        {"key": names.format_entry_keys("challenger", 1)[1], "value": entry["value"]},  # before, it would be another
        {"key": "mlflow_resnet_history_challenger_0000001", "value": entry["value"]},
        {"key": "mlflow_resnet_history_ch_61_llenger_000001", "value": entry["value"]},
        {"key": names.format_older_key("challenger"), "value": "runs:/x/y.json"},
        {"key": "MLFLOW_RESNET.history.challenger.000001", "value": entry["value"]},
    ):
        refused(gate.send("POST", "registered-models/set-tag", name=name, **tag), said)
    refused(gate.send("DELETE", "registered-models/delete-tag", name=name, key=entry["key"]), said)


def test_a_prompt_does_not_take_a_guarded_name_for_ever(gate):
    """Its alias points to no files, so nobody is champion, and it can go."""
    name = "colors taken"
    gate.done("POST", "registered-models/create", name=name, tags=[PROMPT_TAG])
    tags = [PROMPT_TAG, {"key": "mlflow.prompt.text", "value": "x"}]
    gate.done("POST", "model-versions/create", name=name, source="dummy-source", tags=tags)
    gate.done("POST", "registered-models/alias", name=name, alias="champion", version="1")
    gate.made.add(name)
    version = gate.register(name)
    refused(gate.move(version), "no evidence")
    body = {"name": name, "alias": "champion", "version": "1"}
    refused(gate.send("POST", "registered-models/alias", **body), "it is made from dummy-source")
    gate.measure(version)
    assert gate.move(version).status == 200
    assert [(each.before, each.after) for each in gate.history(name)] == [(None, 2)]


def test_a_prompt_that_became_a_model_can_be_removed(gate):
    name = "colors taken and freed"
    gate.done("POST", "registered-models/create", name=name, tags=[PROMPT_TAG])
    gate.done("POST", "model-versions/create", name=name, source="dummy-source", tags=[PROMPT_TAG])
    gate.done("POST", "registered-models/alias", name=name, alias="champion", version="1")
    gate.made.add(name)
    gate.register(name)
    gate.done("DELETE", "registered-models/alias", name=name, alias="champion")
    gate.done("DELETE", "model-versions/delete", name=name, version="1")
    gate.done("POST", "registered-models/rename", name=name, new_name="free again")
    gate.done("DELETE", "registered-models/delete", name="free again")


def test_a_version_whose_logged_model_is_gone_does_not_come_back(gate):
    first = gate.promoted("colors unloadable")
    second = gate.promoted("colors unloadable", first)
    gate.client.delete_logged_model(first.model_id)
    refused(gate.move(first), "its logged model is not to be had")
    assert gate.champion(second.name) == 2


def test_what_was_taken_back_needs_a_new_measurement(gate):
    first = gate.promoted("colors taken back")
    second = gate.promoted("colors taken back", first, measured_at="2026-01-01T00:00:00+00:00")
    assert gate.move(first).status == 200
    refused(gate.move(second), "it was measured at 2026-01-01T00:00:00+00:00, before it lost @champion at 20")
    gate.measure(second, first)
    assert gate.move(second).status == 200


def test_the_champions_number_in_the_evidence_is_of_the_champion(gate):
    first = gate.promoted("colors lied about")
    second = gate.register("colors lied about")
    gate.measure(second, Version(first.name, 1, "m-lie", first.weights))
    refused(gate.move(second), f"model_id of the champion in the evidence is m-lie; expected {first.model_id}")


@pytest.mark.parametrize(
    ("header", "who"),
    [
        ("6.6.6.6", "somebody at 6.6.6.6, as the header X-Forwarded-For says"),
        ("6.6.6.6<script>", "somebody at an unknown address"),
        ("6.6.6.6:80", "somebody at 6.6.6.6, as the header X-Forwarded-For says"),
        ("2.2.2.2, [::2]:80", "somebody at ::2, as the header X-Forwarded-For says"),
        ("nobody", "somebody at an unknown address"),
    ],
)
def test_who_is_not_what_a_header_says(gate, header, who):
    """uvicorn believes it of clients on the same machine."""
    version = gate.register(f"colors by {header}".replace(":", ""))
    gate.measure(version)
    body = version.key | {"alias": "champion"}
    url = f"{gate.url}/api/2.0/mlflow/registered-models/alias"
    requests.post(url, json=body, headers={"X-Forwarded-For": header}, timeout=60).raise_for_status()
    assert [each.who for each in gate.history(version.name)] == [who]


def test_evidence_and_alias_of_another_letter_case_are_others(gate):
    version = gate.register("colors of cases")
    gate.tag(version, proof(version).tag.upper(), "x")
    refused(gate.move(version), "no evidence")


ATTEMPTS = 60  # the fault that these looked for came within 40


def at_once(*calls):
    """The status of each, all sent at the same moment."""
    barrier = Barrier(len(calls))

    def send(call):
        barrier.wait(60)
        return [each().status for each in call]

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(send, calls))


@pytest.mark.slow
def test_no_unproven_champion_by_a_rename_at_the_same_moment(gate):
    model_id = gate.logged_model("ab")
    for attempt in range(ATTEMPTS):
        name, new_name = f"free at once {attempt}", f"colors at once {attempt}"
        version = gate.register(name, model_id)

        def rename(name=name, new_name=new_name):
            return gate.send("POST", "registered-models/rename", name=name, new_name=new_name)

        (moved, renamed) = at_once([lambda version=version: gate.move(version)], [rename])
        assert sorted(moved + renamed) in ([200, 403], [200, 404])
        assert renamed == [403] or gate.champion(new_name) is None


@pytest.mark.slow
def test_no_unproven_champion_by_a_prompt_that_is_filled_while_it_is_renamed(gate):
    model_id = gate.logged_model("ab")
    for attempt in range(ATTEMPTS):
        name, new_name = f"free prompt at once {attempt}", f"colors prompt at once {attempt}"
        gate.done("POST", "registered-models/create", name=name, tags=[PROMPT_TAG])
        body = {"name": name, "source": f"models:/{model_id}", "model_id": model_id}

        def fill(body=body):
            return gate.send("POST", "model-versions/create", **body)

        def move(name=name):
            return gate.send("POST", "registered-models/alias", name=name, alias="champion", version="1")

        def rename(name=name, new_name=new_name):
            return gate.send("POST", "registered-models/rename", name=name, new_name=new_name)

        _, renamed = at_once([fill, move], [rename])
        assert renamed == [403] or gate.champion(new_name) is None


@pytest.mark.slow
def test_no_champion_by_the_evidence_of_another_that_had_its_name(gate):
    good, bad = (gate.logged_model(weights) for weights in ("aa", "bb"))
    for attempt in range(ATTEMPTS):
        name, spare = f"colors swapped at once {attempt}", f"free spare at once {attempt}"
        measured = replace(gate.register(name, good), weights="aa")
        gate.measure(measured)
        tags = [{"key": key, "value": value} for key, value in gate.tags(measured).items()]
        gate.register(spare, bad, tags=tags)

        def away(name=name):
            return gate.send("POST", "registered-models/rename", name=name, new_name=f"free from {name}")

        def here(name=name, spare=spare):
            return gate.send("POST", "registered-models/rename", name=spare, new_name=name)

        at_once([lambda measured=measured: gate.move(measured)], [away, here])
        if gate.champion(name) is not None:
            found = gate.done("GET", "model-versions/get", **measured.key)["model_version"]
            assert found["source"] == f"models:/{good}"
