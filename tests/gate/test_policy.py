"""The file with the rules."""

import os

import pytest

from mlflow_resnet.registry.gate.policy import InvalidPolicyError, PolicyFile, read_policy

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
        assert found.find_alias_rules(name, "champion"), name
    assert found.find_alias_rules("colors", "CHAMPION")
    assert not found.find_alias_rules("shapes", "champion")
    assert not found.find_alias_rules("colors", "challenger")


def test_all_mistakes_are_listed_at_once(policy):
    text = """
- {models: colors, alias: champion, mode: sometimes, sign: true}
- {alias: 3, require: {metrics: {top1_accuracy: {}, f1: {min: high}}, dataset_digest: 1234, max_age_days: -1}}
- {models: "*", alias: champion, not_worse: {metric: f1, by: 0.1, relative: 0.1}, approval: {by_another_user: maybe}}
- {models: "*", alias: champion, not_worse: {by: true}, rollback: never, signed: true, require: {tags: {a: yes}}}
- nonsense
- {models: "a?", alias: latest, mode: sometimes, approval: {tag: mlflow_resnet.x}, require: {metrics: {f1: {max: 1}}}}
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
        "rule 2: require: max_age_days is -1; expected a number above 0",
        "rule 3: not_worse has 2 limits; expected one of by, relative, significant",
        "rule 3: approval: tag is missing",
        "rule 3: approval: by_another_user is 'maybe'; expected true or false",
        "rule 4: not_worse: metric is missing",
        "rule 4: not_worse: by is True; expected a number",
        "rule 4: rollback is 'never'; expected previous or forbidden",
        "rule 4: require: tags: a is True; expected text in quotes",
        "signed is true, but the server has no key; set MLFLOW_RESNET_GATE_KEY",
        "rule 5 is 'nonsense'; expected fields with values",
        "rule 6: models is 'a?', and ? would stand for no more than itself",
        "rule 6: alias is 'latest', which fits nothing",
        "rule 6: mode is 'sometimes'",
        "rule 6: approval: tag is 'mlflow_resnet.x', which mlflow_resnet itself writes",
        "rule 6: require: metrics: f1 is not what is measured",
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{models: "br[ack]", alias: champion}', "models is 'br[ack]', and [ ] would stand for no more than itself"),
        ('{models: "colors?", alias: champion}', "write * for letters that may differ"),
        ('{models: "{a,b}", alias: champion}', "and { } , would stand"),
        ('{models: "a|b", alias: champion}', "and | would stand"),
        ('{models: "^a$", alias: champion}', "and ^ $ would stand"),
        ('{models: "!a", alias: champion}', "and ! would stand"),
        ('{models: "a, b", alias: champion}', "and a rule for each name"),
        ('{models: a, alias: "champion?"}', "alias is 'champion?', and ? would"),
        ('{models: a, alias: "the champion"}', "alias is 'the champion', which fits nothing: Invalid alias name"),
        ("{models: a, alias: latest}", "alias is 'latest', which fits nothing: 'latest' alias name"),
        ("{models: a, alias: v1}", "alias is 'v1', which fits nothing: Version alias name 'v1' is reserved"),
        ("{models: a/b, alias: c}", "models is 'a/b', which fits nothing: Invalid model name"),
        ("{models: 'a:b', alias: c}", "models is 'a:b', which fits nothing"),
        ("{models: .., alias: c}", "models is '..', which fits nothing"),
        ("{models: a, alias: c, require: {}}", "require is empty; fill it or remove it"),
        ("{models: a, alias: c, require: {metrics: {}}}", "require: metrics is empty"),
        ("{models: a, alias: c, require: {tags: {}}}", "require: tags is empty"),
        ("{models: a, alias: c, approval: }", "rule 1: approval is empty; fill it or remove it"),
        ("{models: a, alias: c, require: {flavor: }}", "rule 1: require: flavor is empty"),
        ("{models: ' ', alias: c}", "models is ' '; expected a name; * stands for any letters"),
        ("{models: a, alias: c, 3: x}", "rule 1: 3 is not a field"),
        ("{models: a, alias: c, signed: 1}", "signed is 1; expected true or false"),
        ("{models: a, alias: c, require: {dataset_digest: []}}", "dataset_digest is []; expected a digest"),
        ("{models: a, alias: c, require: {metrics: {log_loss: {max: .inf}}}}", "max is inf; expected a number"),
        ("{models: a, alias: c, require: {tags: {1: x}}}", "has the name 1; expected text"),
        ("{models: a, alias: c, require: {tags: {mlflow_resnet.gate.x: null}}}", "that only the gate writes"),
        (
            "{models: a, alias: c, require: {metrics: {acuracy: {min: 0.9}}}}",
            "acuracy is not what is measured; expected",
        ),
        ("{models: a, alias: c, require: {metrics: {val_loss: {max: 1}}}}", "val_loss is not what is measured"),
        (
            "{models: a, alias: c, require: {metrics: {top1_accuracy: {min: 90}}}}",
            "min is 90; expected a number from 0 to 1",
        ),
        (
            "{models: a, alias: c, require: {metrics: {macro_f1: {max: -1}}}}",
            "max is -1; expected a number from 0 to 1",
        ),
        ("{models: a, alias: c, require: {metrics: {log_loss: {max: -1}}}}", "max is -1; expected a number from 0"),
        ("{models: a, alias: c, require: {metrics: {log_loss: {min: 2, max: 1}}}}", "max is 1, less than min, 2"),
        ("{models: a, alias: c, require: {max_age_days: 0}}", "max_age_days is 0; expected a number above 0"),
        ("{models: a, alias: c, not_worse: {metric: cost, by: 0}}", "not_worse: metric is not what is measured"),
        ("{models: a, alias: c, not_worse: {metric: top1_accuracy, by: 2}}", "by is 2, which allows everything"),
        ("{models: a, alias: c, not_worse: {metric: top1_accuracy, relative: 1}}", "relative is 1, which allows"),
        ("{models: a, alias: c, not_worse: {metric: top1_accuracy, significant: 0}}", "significant is 0, which allows"),
        ("{models: a, alias: c, not_worse: {metric: macro_f1, significant: 0.05}}", "expected top1_accuracy, of which"),
        (
            "{models: a, alias: c, not_worse: {metric: top1_accuracy, by: 0.1, lower_is_better: true}}",
            "lower_is_better is true, which is wrong of top1_accuracy",
        ),
        (
            "{models: a, alias: c, not_worse: {metric: log_loss, by: 0.1, lower_is_better: false}}",
            "lower_is_better is false, which is wrong of log_loss",
        ),
        ("{models: a, alias: c, logged: true}", "logged is true, but no metric is asked for"),
        (
            "{models: a, alias: c, logged: true, not_worse: {metric: top1_accuracy, significant: 0.05}}",
            "the images that only one model has right are logged nowhere",
        ),
        ("{models: a, alias: c, approval: {tag: mlflow_resnet.evidence.x.c}}", "which mlflow_resnet itself writes"),
        ("{models: a, alias: c, approval: {tag: approved.by}}", ".by ends the names of the tags that say who"),
        ("{models: a, alias: c}\n- {models: b, alias: c}\n- {models: A, alias: C}", "rule 3 says the same as rule 1"),
    ],
)
def test_rules_that_check_nothing_or_can_never_be_met_are_mistakes(policy, text, said):
    assert said in problems(policy, f"- {text}")


def test_letters_that_mean_something_elsewhere_mean_themselves(policy):
    policy.write_text("- {models: a.b(1)+*, alias: champion}\n- {models: '*', alias: live-*}\n")
    found = read_policy(policy)
    assert found.find_alias_rules("a.b(1)+2", "champion")
    assert not found.find_alias_rules("aXb(1)+2", "champion")
    assert found.find_alias_rules("br[ack]", "Live-1")
    assert found.find_alias_rules("two\nlines", "live-1")


def test_a_blank_key_is_no_key(policy, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_GATE_KEY", "  ")
    assert "the server has no key" in problems(policy, "- {models: a, alias: b, signed: true}")


def test_the_metrics_that_rules_may_name_are_those_that_are_measured():
    import numpy as np

    from mlflow_resnet.evaluation.metrics import average_metrics, headline_metrics
    from mlflow_resnet.options.metric_names import EVALUATION_METRICS, FRACTIONS

    targets, probabilities = np.arange(6), np.full((6, 6), 1 / 6)
    found = headline_metrics(targets, probabilities) | average_metrics(targets, probabilities)
    assert set(found) == set(EVALUATION_METRICS)
    assert all(0 <= found[name] <= 1 for name in FRACTIONS)


@pytest.mark.parametrize("path", ["", "  "])
def test_a_variable_without_a_path_stops_the_server(path, monkeypatch):
    from mlflow_resnet.registry.gate.plugin import build

    monkeypatch.setenv("MLFLOW_RESNET_GATE_POLICY", path)
    with pytest.raises(InvalidPolicyError, match="MLFLOW_RESNET_GATE_POLICY: 1 mistake.*\n.*it is empty"):
        build("resnet-gate+sqlite:///none.db")


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
