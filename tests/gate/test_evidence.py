"""Evidence and history as text."""

import json
from dataclasses import replace

import pytest
from gate_server import Version, proof

from mlflow_resnet.registry import alias_history, evidence
from mlflow_resnet.registry.alias_history import Move
from mlflow_resnet.registry.evidence import EvidenceError, from_text, has_valid_signature, sign_evidence, to_text
from mlflow_resnet.registry.names import EVIDENCE_KEYS

SIGNED_BEFORE = (
    r'{"alias":"champion","champion":{"metrics":{"log_loss":1e-07,"top1_accuracy":1},"model_id":"m-0123","'
    r'model_sha256":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","only_candidate_rig'
    r'ht":4,"only_champion_right":3,"p_value":1.0,"version":1},"dataset_digest":"aaaa000011112222","datase'
    r't_name":"p\u00edcs \udcff","format":2,"images":100,"measured_at":"2026-01-31T12:00:00.500+00:00","me'
    r'asured_by":"ann","metrics":{"log_loss":0.30000000000000004,"top1_accuracy":1,"top5_accuracy":-0.0},"'
    r'model_id":"m-4567","model_sha256":"abababababababababababababababababababababababababababababababab"'
    r',"name":"colors","signature":"4a336d80893294355dbf103774d99a7753a9d3273239fe30a6353616b4ff9371","ver'
    r'sion":2}'
)
FIRST_MOVE = Move("colors", "champion", None, 1, alias_history.PROMOTE)
FIRST, SECOND = (Version("colors", number, f"m-{number}", "ab" * 32) for number in (1, 2))


def test_evidence_read_is_what_was_written():
    for facts in (proof(FIRST), sign_evidence(proof(SECOND, FIRST), "key")):
        assert from_text(to_text(facts)) == facts


def test_a_tag_that_an_earlier_version_signed_is_still_verified():
    """Made before pydantic checked evidence: whole numbers stay whole, and odd names as they are."""
    assert to_text(from_text(SIGNED_BEFORE)) == SIGNED_BEFORE
    assert has_valid_signature(from_text(SIGNED_BEFORE), "key")
    assert not has_valid_signature(
        from_text(SIGNED_BEFORE.replace('"top1_accuracy":1,', '"top1_accuracy":1.0,')), "key"
    )


def test_its_tag_says_which_data_and_which_alias():
    assert proof(FIRST).tag == "mlflow_resnet_evidence_aaaa000011112222_for_champion"
    assert proof(FIRST, format=2).tag == "mlflow_resnet.evidence.aaaa000011112222.champion"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "[], where an object with fields is expected"),
        ("[" * 100_000, "not JSON"),
        (to_text(proof(FIRST)).replace("0.3", "1" * 400), "expected a finite number"),
        (to_text(proof(FIRST)).replace('"images":100', '"images":' + "9" * 400), "expected an integer from 0"),
        ("{}", "; model_id is missing; "),
        (to_text(proof(FIRST)).replace("0.3", "NaN"), "metrics: log_loss is nan; expected a finite number"),
        (to_text(proof(FIRST)).replace('"format":3', '"format":4'), "format is 4; expected 3, update mlflow_resnet"),
        (to_text(proof(FIRST)).replace('"format":3', '"format":1'), "its format is 1, which does not say all"),
        (to_text(proof(FIRST)).replace('"version":1', '"version":"1"'), "version is '1'; expected an integer"),
        (to_text(proof(FIRST)).replace('"version":1', '"version":true'), "version is True; expected an integer"),
        (to_text(proof(FIRST)).replace("0.3", "true"), "metrics: log_loss is True; expected a finite number"),
        (to_text(proof(FIRST)).replace('"format":3', '"format":3.0'), "format is 3.0; expected 3"),
        (to_text(proof(FIRST)).replace(',"signature":""', ""), "signature is missing"),
        (to_text(proof(FIRST)).replace('"images"', '"pictures"'), "'pictures' is not a field"),
        (
            to_text(proof(FIRST)).replace('"champion":null', '"champion":3'),
            "champion is 3; expected fields with values",
        ),
        (
            to_text(proof(SECOND, FIRST)).replace('"p":1.0', '"p":Infinity'),
            "champion: p_value is inf; expected a finite number",
        ),
        (to_text(proof(FIRST, measured_at="2026-01-31T12:00:00+00:00")).replace("+00:00", ""), "with an offset"),
    ],
)
def test_what_is_not_evidence_is_told_in_a_sentence(text, said):
    with pytest.raises(EvidenceError) as error:
        from_text(text)
    assert said in error.value.message


def test_evidence_of_weights_alone_is_shown_but_decides_nothing():
    old = to_text(sign_evidence(proof(SECOND, FIRST, format=2), "key")).replace("model_sha256", "weights_sha256")
    old = old.replace('"format":2', '"format":1')
    with pytest.raises(EvidenceError, match=r"format is 1.* Measure the version again"):
        from_text(old)
    found = evidence.from_older_text(old)
    assert (found.format, found.model_sha256, found.champion.model_sha256) == (1, "", "")
    assert (found.version, found.champion.version) == (2, 1)
    for form in (2, 3):
        new = to_text(proof(SECOND, FIRST, format=form))
        assert evidence.from_older_text(new) == from_text(new)


def test_a_signature_is_of_every_field_and_of_one_key():
    facts = sign_evidence(proof(SECOND, FIRST), "key")
    assert has_valid_signature(facts, "key")
    assert not has_valid_signature(facts, "another key")
    assert not has_valid_signature(proof(SECOND, FIRST), "key")
    others = {
        "name": "x",
        "metrics": {"top1_accuracy": 1.0},
        "champion": None,
        "images": 101,
        "alias": "x",
        "version": 3,
    }
    for name, value in others.items():
        assert not has_valid_signature(facts.model_copy(update={name: value}), "key"), name


def test_a_signature_survives_writing_and_reading():
    assert has_valid_signature(from_text(to_text(sign_evidence(proof(SECOND, FIRST), "key"))), "key")


def test_entries_that_speak_of_weights_alone_are_still_read():
    entry = alias_history.next_entry(None, replace(FIRST_MOVE, model_sha256="ab", evidence="tag"), "ann", "0123")
    text = entry.to_text().replace("model_sha256", "weights_sha256")
    assert alias_history.entries({entry.tag: text}) == [replace(entry, model_sha256="")]


def test_history_is_numbered_and_in_order():
    first = alias_history.next_entry(None, replace(FIRST_MOVE, model_sha256="ab", evidence="tag"), "ann", "0123")
    second = alias_history.next_entry(first, Move("colors", "champion", 1, None, alias_history.ROLLBACK), "ben")
    tags = {entry.tag: entry.to_text() for entry in (second, first)}
    assert sorted(tags) == ["mlflow_resnet_history_champion_000001", "mlflow_resnet_history_champion_000002"]
    assert alias_history.entries(tags, "champion") == [first, second]
    assert alias_history.entries(tags, "challenger") == []
    assert "rollback  @champion from version 1 to none  by ben" in str(second)


def test_what_is_no_history_is_left_out():
    entry = alias_history.next_entry(None, FIRST_MOVE, "ann")
    tags = {entry.tag: entry.to_text(), f"{EVIDENCE_KEYS[0]}x": "{}"}
    tags |= {
        "mlflow_resnet_history_champion_000002": "nonsense",
        "mlflow_resnet_history_champion_000003": entry.to_text(),
    }
    assert alias_history.entries(tags) == [entry]


def test_what_somebody_wrote_into_the_history_does_not_command_the_terminal():
    entry = alias_history.next_entry(None, FIRST_MOVE, "ann\x1b[2J\nroot")
    assert str(entry).endswith("by ann?[2J?root")


@pytest.mark.parametrize(
    "change",
    [{"time": "now"}, {"time": "2026-01-01T00:00:00"}, {"to": "1"}, {"from": True}, {"sequence": "1"}, {"who": None}],
)
def test_an_entry_with_a_field_of_another_kind_is_left_out(change):
    entry = alias_history.next_entry(None, FIRST_MOVE, "ann")
    assert alias_history.entries({entry.tag: entry.to_text()}) == [entry]
    text = json.dumps(json.loads(entry.to_text()) | change)
    assert alias_history.entries({entry.tag: text}) == []
