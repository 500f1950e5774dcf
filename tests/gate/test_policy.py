"""The file with the rules."""

import os

import pytest

from mlflow_resnet.registry.gate.policy import InvalidPolicyError, read_policy
from mlflow_resnet.registry.gate.reloading import PolicyFile

GOOD = "- {models: colors*, alias: champion, require: {metrics: {top1_accuracy: {min: 0.9}}}}\n"


@pytest.fixture
def policy(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_RESNET_GATE_KEY", raising=False)
    return tmp_path / "policy.yaml"


def problems(policy, text):
    policy.write_text(text)
    with pytest.raises(InvalidPolicyError) as error:
        read_policy(policy)
    assert all(problem in error.value.message for problem in error.value.problems)
    return "\n".join(error.value.problems)


def test_names_match_by_pattern_whatever_their_case_and_accents(policy):
    policy.write_text(GOOD)
    found = read_policy(policy)
    for name in ("colors", "colors-2", "Colors", "cölors", "colors "):
        assert found.guarding(name, "champion"), name
    assert found.guarding("colors", "CHAMPION")
    assert not found.guarding("shapes", "champion")
    assert not found.guarding("colors", "challenger")


def test_all_mistakes_are_listed_at_once(policy):
    text = """
- {models: colors, alias: champion, mode: sometimes, sign: true}
- {alias: 3, require: {metrics: {top1_accuracy: {}, f1: {min: high}}, dataset_digest: 1234, max_age_days: -1}}
- {models: "*", alias: champion, not_worse: {metric: f1, by: 0.1, relative: 0.1}, approval: {by_another_user: maybe}}
- {models: "*", alias: champion, not_worse: {by: true}, rollback: never, signed: true, require: {tags: {a: yes}}}
- nonsense
"""
    found = problems(policy, text)
    for said in (
        "rule 1: mode is 'sometimes'; expected enforce or dry-run",
        "rule 1: 'sign' is not a field",
        "rule 2: models is missing",
        "rule 2: alias is 3; expected an alias",
        "rule 2: require: metrics: top1_accuracy has no bound; expected min or max or both",
        "rule 2: require: metrics: f1: min is 'high'; expected a number",
        "rule 2: require: dataset_digest is 1234; expected a digest, or a list of them, in quotes",
        "rule 2: require: max_age_days is -1; expected a number from 0",
        "rule 3: not_worse has 2 limits; expected one of by, relative, significant",
        "rule 3: approval: tag is missing",
        "rule 3: approval: by_another_user is 'maybe'; expected true or false",
        "rule 4: not_worse: metric is missing",
        "rule 4: not_worse: by is True; expected a number",
        "rule 4: rollback is 'never'; expected previous or forbidden",
        "rule 4: require: tags: a is True; expected text in quotes",
        "signed is true, but the server has no key; set MLFLOW_RESNET_GATE_KEY",
        "rule 5 is 'nonsense'; expected fields with values",
    ):
        assert said in found, found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no rules"),
        ("rules: []", "it has no rules"),
        ("- {", "not YAML"),
        ("- {models: a, alias: b, alias: c}", "alias is there twice"),
    ],
)
def test_what_is_no_list_of_rules_is_a_mistake(policy, text, said):
    assert said in problems(policy, text)


def test_a_missing_file_is_a_mistake(policy):
    with pytest.raises(InvalidPolicyError, match="it cannot be read"):
        read_policy(policy)


def test_a_signed_rule_is_fine_with_a_key(policy, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_GATE_KEY", "secret")
    policy.write_text("- {models: a, alias: b, signed: true}")
    assert read_policy(policy).rules[0].signed


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(policy, caplog):
    policy.write_text(GOOD)
    file = PolicyFile(policy)
    first = file.current()
    assert file.current() is first
    policy.write_text("- {models: colors, alias: champion, sign: true}")
    assert file.current() is first
    assert "'sign' is not a field" in caplog.text
    assert "The rules stay as they were" in caplog.text
    policy.unlink()
    assert file.current() is first
    beside = policy.with_suffix(".new")
    beside.write_text("- {models: shapes, alias: champion}")
    os.replace(beside, policy)
    assert [rule.models for rule in file.current().rules] == ["shapes"]
    assert file.current().digest != first.digest


def test_every_example_of_the_documentation_is_a_policy(policy, monkeypatch):
    from helpers import ROOT

    monkeypatch.setenv("MLFLOW_RESNET_GATE_KEY", "secret")
    blocks = (ROOT / "docs" / "gate.md").read_text().split("```yaml\n")[1:]
    assert len(blocks) > 5
    for block in blocks:
        policy.write_text(block.partition("```")[0])
        read_policy(policy)
