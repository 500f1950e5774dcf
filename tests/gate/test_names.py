"""Keys of tags: what they may hold, and that no two things share one."""

import re
from dataclasses import replace

import pytest
from gate_server import Version, proof
from hypothesis import given
from hypothesis import strategies as st

from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.evidence import from_text, round_measurement, sign_evidence, to_text
from mlflow_resnet.registry.names import (
    decode_name,
    encode_name,
    format_entry_keys,
    format_evidence_keys,
    format_older_key,
    is_evidence_key,
    is_history_key,
    parse_entry_key,
)
from mlflow_resnet.registry.run_texts import MOST_TAG_CHARACTERS

NAMES = st.text(st.sampled_from("aA0f_-. grünfor2d\U0001f600"), min_size=1, max_size=12)
EVERY_REGISTRY = re.compile(r"[0-9A-Za-z_]+")
METRICS = {
    "top1_accuracy": 11 / 12,
    "top5_accuracy": 0.98765432101,
    "balanced_accuracy": 0.9012345678901,
    "macro_f1": 0.8901234567890,
    "macro_precision": 0.8890123456789,
    "macro_recall": 0.9012345678901,
    "micro_f1": 11 / 12,
    "micro_precision": 11 / 12,
    "micro_recall": 11 / 12,
    "weighted_f1": 0.9123456789012,
    "weighted_precision": 0.9234567890123,
    "weighted_recall": 11 / 12,
    "log_loss": 0.3456789012345,
}


@given(NAMES, NAMES, st.integers(1, 10**7))
def test_keys_hold_what_every_registry_takes(digest, alias, number):
    for key in (format_entry_keys(alias, number)[0], format_older_key(alias), format_evidence_keys(digest, alias)[0]):
        assert EVERY_REGISTRY.fullmatch(key)


@given(NAMES)
def test_an_encoded_name_is_read_back(name):
    assert decode_name(encode_name(name)) == name


@given(NAMES, NAMES, NAMES, NAMES)
def test_no_two_measurements_share_a_key(digest, alias, other_digest, other_alias):
    same = (digest, alias) == (other_digest, other_alias)
    assert (format_evidence_keys(digest, alias)[0] == format_evidence_keys(other_digest, other_alias)[0]) is same


@given(NAMES, st.integers(1, 10**7))
def test_the_alias_of_an_entry_is_read_back(alias, number):
    assert parse_entry_key(format_entry_keys(alias, number)[0]) == alias


@pytest.mark.parametrize(
    ("name", "encoded"), [("champion", "champion"), ("my_first-one", "my__first_2d_one"), ("grün", "gr_fc_n")]
)
def test_an_encoded_name_can_be_read_by_people(name, encoded):
    assert encode_name(name) == encoded


@pytest.mark.parametrize("encoded", ["a_61_", "a_2D_", "a_02d_", "a_", "_", "a-b", "a_ffffffff_", "a_d800_b__c_"])
def test_another_spelling_of_a_name_is_none(encoded):
    assert decode_name(encoded) is None


def test_what_a_database_may_take_for_a_key_is_guarded_like_it():
    for key in ("MLFLOW_RESNET_HISTORY_x", "mlflow_resnet.History.x", "mlflow_resnét_history_champion_000001 "):
        assert is_history_key(key)
    for alias, end in (("Champion", "champion"), ("my-one", "MY_2D_ONE")):
        assert is_evidence_key(f"Mlflow_Resnet_Evidence_x_For_{end}", alias)
    assert is_evidence_key("mlflow_resnet.evidence.x.CHAMPION", "champion")
    assert not is_evidence_key("mlflow_resnet_evidence_x_for_challenger", "champion")
    assert not is_evidence_key("mlflow_resnet_promotion_alias")


def test_of_two_entries_with_one_number_that_with_todays_key_counts():
    first = alias_history.next_entry(None, alias_history.Move("colors", "champion", None, 1, "promote"), "ann")
    other = replace(first, who="ben")
    today, before = first.keys
    for tags in ({today: first.to_text(), before: other.to_text()}, {before: other.to_text(), today: first.to_text()}):
        assert alias_history.entries(tags) == [first]
    assert alias_history.entries({before: other.to_text()}) == [other]


def test_evidence_of_all_metrics_against_a_champion_fits_a_tag_of_any_registry():
    first, second = (Version("main.computer_vision.flowers", number, "m-" + "0a" * 16, "ab" * 32) for number in (1, 2))
    rounded = {name: round_measurement(value) for name, value in METRICS.items()}
    others = {name: round_measurement(value / 1.01) for name, value in METRICS.items()}
    made = proof(second, first, metrics=rounded, dataset_name="flowers_test", measured_by="ann.smith@example.com")
    champion = made.champion.model_copy(update={"metrics": others, "p_value": round_measurement(1 / 3)})
    signed = sign_evidence(made.model_copy(update={"champion": champion}), "key")
    assert len(to_text(signed)) <= MOST_TAG_CHARACTERS
    assert from_text(to_text(signed)) == signed


def test_evidence_keeps_metrics_that_only_one_of_both_has():
    made = proof(Version("a", 2, "m-2", ""), Version("a", 1, "m-1", ""), metrics={"top5_accuracy": 1, "log_loss": 1.0})
    assert from_text(to_text(made)) == made
    assert to_text(from_text(to_text(made))) == to_text(made)
