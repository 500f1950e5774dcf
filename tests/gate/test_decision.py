"""What a rule misses, without any server."""

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest
import yaml
from gate_server import DIGEST, Version, proof, tag_of
from mlflow.entities import Metric
from scipy.stats import binomtest

from mlflow_resnet.evaluation.mcnemar import mcnemar
from mlflow_resnet.registry import alias_history
from mlflow_resnet.registry.evidence import sign_evidence
from mlflow_resnet.registry.gate.decision import Proven, Situation, is_rollback, judge
from mlflow_resnet.registry.gate.rule import Rule

CHAMPION, CANDIDATE = (Version("colors", number, f"m-{number}", f"{number}" * 64) for number in (1, 2))
OTHER = Version("shapes", 2, "m-2", "2" * 64)


def log(name, value, digest):
    return Metric(name, value, 0, 0, dataset_name=digest and "colors", dataset_digest=digest)


def rule(text=""):
    return Rule.model_validate({"models": "colors", "alias": "champion"} | (yaml.safe_load(text) or {}))


def move(*evidence, tags=None, **changes):
    """Version 2 is to follow version 1."""
    written = dict(map(tag_of, evidence or [proof(CANDIDATE, CHAMPION)]))
    known = Proven((), "m-2", "2" * 64, flavors=("mlflow_resnet", "python_function"), signature=True)
    facts = Situation(
        name="colors",
        alias="champion",
        version=2,
        tags=written | (tags or {}),
        status="READY",
        proven=known,
        champion=1,
        standing=Proven((), "m-1", "1" * 64),
        past=(),
        user=None,
        key="key",
        now=datetime.now(timezone.utc),
    )
    return dataclasses.replace(facts, **changes)


def compared(own, other, lost=0, won=0, images=100):
    metrics = {"top1_accuracy": other, "log_loss": other}
    numbers = {"metrics": metrics, "only_champion_right": lost, "only_candidate_right": won}
    made = proof(CANDIDATE, CHAMPION, metrics={"top1_accuracy": own, "log_loss": own}, images=images)
    return made.model_copy(update={"champion": made.champion.model_copy(update=numbers)})


def judged(made, moved):
    """The verdict of one rule."""
    ((_, verdict),) = judge([made], moved)
    return verdict


def missing(text, moved):
    return "; ".join(judged(rule(text), moved).missing)


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("", proof(CANDIDATE, CHAMPION)),
        ("require: {metrics: {top1_accuracy: {min: 0.9, max: 0.9}, log_loss: {max: 0.3}}}", proof(CANDIDATE, CHAMPION)),
        (f"require: {{dataset_digest: {DIGEST}}}", proof(CANDIDATE, CHAMPION)),
        (f"require: {{dataset_digest: [x, {DIGEST}]}}", proof(CANDIDATE, CHAMPION)),
        ("require: {flavor: mlflow_resnet, signature: true}", proof(CANDIDATE, CHAMPION)),
        ("require: {max_age_days: 1}", proof(CANDIDATE, CHAMPION)),
        ("signed: true", sign_evidence(proof(CANDIDATE, CHAMPION), "key")),
        ("not_worse: {metric: top1_accuracy, by: 0.01}", compared(0.94, 0.95)),
        ("not_worse: {metric: top1_accuracy, by: 0}", compared(0.95, 0.95)),
        ("not_worse: {metric: top1_accuracy, relative: 0.1}", compared(0.45, 0.5)),
        ("not_worse: {metric: log_loss, by: 0}", compared(0.2, 0.3)),
        ("not_worse: {metric: macro_f1, by: 0, lower_is_better: true}", compared(0.2, 0.3)),
        ("not_worse: {metric: top1_accuracy, significant: 0.05}", compared(0.9, 0.95, lost=9, won=4)),
        ("not_worse: {metric: top1_accuracy, significant: 0.05}", compared(0.9, 0.95, lost=1, won=50)),
    ],
)
def test_allowed(text, evidence):
    if "macro_f1" in text:
        champion = evidence.champion.model_copy(update={"metrics": {"macro_f1": 0.3}})
        evidence = evidence.model_copy(update={"metrics": {"macro_f1": 0.2}, "champion": champion})
    verdict = judged(rule(text), move(evidence))
    assert verdict.missing == ()
    assert verdict.evidence == evidence.tag


@pytest.mark.parametrize(
    ("text", "evidence", "said"),
    [
        ("", proof(CANDIDATE, CHAMPION, alias="other"), "no evidence for @champion"),
        ("", proof(OTHER, CHAMPION), "name of the evidence is shapes; expected colors"),
        ("", proof(CHAMPION, CHAMPION), "version of the evidence is 1; expected 2"),
        ("", proof(CANDIDATE, CHAMPION, model_id="m-3"), "model_id of the evidence is m-3; expected m-2"),
        ("", proof(CANDIDATE, CHAMPION, model_sha256="00"), "model_sha256 of the evidence is 00; expected 2222"),
        ("", proof(CANDIDATE, CHAMPION, images=0), "measured on 0 images"),
        ("", proof(CANDIDATE), "measured against none, but version 1 is @champion now"),
        ("", proof(CANDIDATE, CANDIDATE), "measured against version 2, but version 1 is @champion now"),
        ("", proof(CANDIDATE, CHAMPION, measured_at="2999-01-01T00:00:00+00:00"), "which is yet to come"),
        ("require: {metrics: {top1_accuracy: {min: 0.91}}}", proof(CANDIDATE, CHAMPION), "0.9; expected at least 0.91"),
        ("require: {metrics: {log_loss: {max: 0.2}}}", proof(CANDIDATE, CHAMPION), "0.3; expected at most 0.2"),
        ("require: {metrics: {macro_f1: {min: 0}}}", proof(CANDIDATE, CHAMPION), "macro_f1 was not measured"),
        ("require: {dataset_digest: x}", proof(CANDIDATE, CHAMPION), f"digest {DIGEST}; expected x"),
        (
            "require: {max_age_days: 1}",
            proof(CANDIDATE, CHAMPION, measured_at="2020-01-01T00:00:00+00:00"),
            "1 days ago",
        ),
        ("signed: true", proof(CANDIDATE, CHAMPION), "its signature is missing"),
        ("signed: true", sign_evidence(proof(CANDIDATE, CHAMPION), "stolen"), "was not made with the server's key"),
        ("not_worse: {metric: top1_accuracy, by: 0.01}", compared(0.93, 0.95), "worse by 0.02; allowed are 0.01"),
        ("not_worse: {metric: top1_accuracy, relative: 0.01}", compared(0.4, 0.5), "allowed are 0.005"),
        ("not_worse: {metric: log_loss, by: 0.05}", compared(0.4, 0.3), "log_loss is 0.4, of the champion 0.3"),
        ("not_worse: {metric: macro_f1, by: 1}", compared(1, 1), "macro_f1 was not measured of both"),
        (
            "not_worse: {metric: macro_f1, significant: 0.05}",
            compared(1, 1, lost=9, won=1),
            "on 9 images, only the candidate on 1",
        ),
        (
            "not_worse: {metric: macro_f1, significant: 0.05}",
            compared(1, 1, lost=90, won=11),
            "90 and 11 images are right of one",
        ),
    ],
)
def test_refused_with_the_reason(text, evidence, said):
    assert said in missing(text, move(evidence))


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("require: {tags: {ticket: null}}", {}, "tag ticket is missing"),
        ("require: {tags: {stage: done}}", {"tags": {"stage": "begun"}}, "tag stage is 'begun'; expected 'done'"),
        ("require: {flavor: sklearn}", {}, "its flavors are mlflow_resnet, python_function; expected sklearn"),
        ("require: {signature: true}", {"proven": Proven((), "m-2", "2" * 64)}, "its model has no signature"),
        ("", {"proven": Proven(("its files are not those of m-2",))}, "its files are not those of m-2"),
        ("", {"status": "PENDING_REGISTRATION"}, "its status is PENDING_REGISTRATION"),
        ("approval: {tag: ok}", {}, "tag ok is missing"),
        ("approval: {tag: ok}", {"tags": {"ok": "no"}}, "tag ok is no; expected true"),
        ("approval: {tag: ok, by_another_user: true}", {"tags": {"ok": "true", "ok.by": "ann"}}, "has no users"),
        ("approval: {tag: ok, by_another_user: true}", {"tags": {"ok": "true"}, "user": "ben"}, "is not known"),
        (
            "approval: {tag: ok, by_another_user: true}",
            {"tags": {"ok": "true", "ok.by": ""}, "user": "ben"},
            "not known",
        ),
        (
            "approval: {tag: ok, by_another_user: true}",
            {"tags": {"ok": "true", "ok.by": "ben"}, "user": "ben"},
            "set by ben",
        ),
    ],
)
def test_refused_for_what_the_version_lacks(text, changes, said):
    assert said in missing(text, move(**changes))


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("require: {tags: {ticket: null, stage: done}}", {"tags": {"ticket": "", "stage": "done"}}),
        ("approval: {tag: ok}", {"tags": {"ok": "True"}}),
        ("approval: {tag: ok, by_another_user: true}", {"tags": {"ok": "true", "ok.by": "ann"}, "user": "ben"}),
    ],
)
def test_allowed_with_what_the_version_has(text, changes):
    assert missing(text, move(**changes)) == ""


def test_everything_that_is_missing_is_told_at_once():
    text = "require: {metrics: {macro_f1: {min: 1}}, tags: {ticket: null}}\napproval: {tag: ok}"
    said = missing(text, move(proof(CANDIDATE, images=0)))
    for part in ("macro_f1 was not", "ticket is missing", "tag ok is", "0 images", "against none"):
        assert part in said


def test_only_who_was_overtaken_is_told_so():
    assert judged(rule(), move(proof(CANDIDATE))).is_overtaken
    assert not judged(rule(), move(proof(CANDIDATE, images=0))).is_overtaken
    assert not judged(rule(), move()).is_overtaken


def test_of_several_measurements_the_best_counts():
    bad = proof(CANDIDATE, CHAMPION, dataset_digest="other", images=0)
    assert judged(rule(), move(bad, proof(CANDIDATE, CHAMPION))).evidence.endswith(f"{DIGEST}_for_champion")


def test_a_tag_under_the_name_of_another_does_not_count():
    text = tag_of(proof(CANDIDATE, CHAMPION))[1]
    moved = move(tags={"mlflow_resnet_evidence_x_for_champion": text})
    moved = dataclasses.replace(moved, tags={"mlflow_resnet_evidence_x_for_champion": text})
    assert "holds what belongs into" in missing("", moved)


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        ([log("test_top1_accuracy", 0.9, DIGEST)], ""),
        ([log("top1_accuracy", 0.9, "other"), log("top1_accuracy", 0.9, None)], "is not there"),
        ([log("top1_accuracy", 0.8, DIGEST)], "is 0.8; the evidence says 0.9"),
        ([], "is not there"),
    ],
)
def test_what_the_logged_model_says_must_agree(logged, said):
    known = Proven((), "m-2", "2" * 64, tuple(logged))
    found = missing("logged: true\nrequire: {metrics: {top1_accuracy: {min: 0.5}}}", move(proven=known))
    assert said in found
    assert bool(said) == bool(found)


def noted(*moves):
    """The history that the gate wrote: each move with its action, from and to."""
    past = []
    for action, before, after in moves:
        last = past[-1] if past else None
        past.append(
            alias_history.next_entry(
                last, alias_history.Move("colors", "champion", before, after, action), "ann", policy="abc"
            )
        )
    return tuple(past)


PAST = noted((alias_history.PROMOTE, None, 2), (alias_history.PROMOTE, 2, 1))


def test_back_to_the_version_before_needs_no_new_evidence():
    back = move(proof(CANDIDATE, images=0), past=PAST)
    assert is_rollback(back)
    assert missing("", back) == ""
    assert "0 images" in missing("rollback: forbidden", back)
    assert not is_rollback(dataclasses.replace(back, champion=3))  # moved past the gate since
    assert not is_rollback(dataclasses.replace(back, version=5))
    clients = tuple(dataclasses.replace(entry, policy=None) for entry in PAST)
    assert not is_rollback(dataclasses.replace(back, past=clients))
    done = alias_history.next_entry(
        PAST[-1], alias_history.Move("colors", "champion", 1, 2, alias_history.ROLLBACK), "ann", policy="abc"
    )
    assert not is_rollback(dataclasses.replace(back, past=(*PAST, done), version=1, champion=2))  # forth again


@pytest.mark.parametrize(
    "past",
    [
        noted((alias_history.FORCE, None, 2), (alias_history.PROMOTE, 2, 1)),
        noted((alias_history.FORCE, None, 2), (alias_history.FORCE, 2, 1)),
        noted((alias_history.PROMOTE, 2, 1)),  # 2 was champion before there was a gate
        noted((alias_history.PROMOTE, None, 2), (alias_history.REMOVE, 2, None), (alias_history.PROMOTE, None, 1)),
        noted((alias_history.PROMOTE, None, 2), (alias_history.PROMOTE, None, 1)),  # removed by other means
    ],
)
def test_what_met_no_rule_does_not_come_back_without_evidence(past):
    assert not is_rollback(move(past=past))


def test_a_forced_move_is_undone_without_evidence():
    assert is_rollback(move(past=noted((alias_history.PROMOTE, None, 2), (alias_history.FORCE, 2, 1))))


def test_the_way_back_leads_to_what_can_be_loaded_only():
    for changes in ({"status": "FAILED"}, {"proven": Proven(("its logged model m-2 is gone",))}):
        said = missing("", move(past=PAST, **changes))
        assert said.startswith("its ")
        assert "evidence" not in said


SIGNED, AT_LEAST = "signed: true", "require: {metrics: {top1_accuracy: {min: 0.95}}}"


def test_one_measurement_must_meet_all_rules():
    """Not the signature by one and the number by another."""
    real = sign_evidence(proof(CANDIDATE, CHAMPION), "key")
    forged = proof(CANDIDATE, CHAMPION, metrics={"top1_accuracy": 0.99}, dataset_digest="other")
    verdicts = judge([rule(SIGNED), rule(AT_LEAST)], move(real, forged))
    assert any(verdict.missing for _, verdict in verdicts)
    assert len({verdict.evidence for _, verdict in verdicts}) == 1
    better = sign_evidence(forged.model_copy(update={"dataset_digest": "third"}), "key")
    verdicts = judge([rule(SIGNED), rule(AT_LEAST)], move(real, forged, better))
    assert [verdict.missing for _, verdict in verdicts] == [(), ()]


def test_a_rule_that_is_only_tried_does_not_choose_the_measurement():
    real = sign_evidence(proof(CANDIDATE, CHAMPION), "key")
    forged = proof(CANDIDATE, CHAMPION, metrics={"top1_accuracy": 0.99}, dataset_digest="other")
    tried = rule("mode: dry-run\n" + AT_LEAST)
    (_, enforced), (_, told) = judge([rule(SIGNED), tried], move(real, forged))
    assert enforced.missing == ()
    assert told.missing == ("top1_accuracy is 0.9; expected at least 0.95",)


LOGGED = "logged: true\nnot_worse: {metric: top1_accuracy, by: 0.01}"
OWN = (log("top1_accuracy", 0.6, DIGEST),)


def against(logged, **changes):
    """Version 2, of 0.6, is to follow version 1, of which its logged model says this."""
    known = Proven((), "m-2", "2" * 64, OWN)
    standing = dataclasses.replace(Proven((), "m-1", "1" * 64, tuple(logged)), **changes)
    return move(compared(0.6, 0.1), proven=known, standing=standing)


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        ([log("test_top1_accuracy", 0.1, DIGEST)], ""),
        (
            [log("top1_accuracy", 0.98, DIGEST)],
            "champion's logged model on these images is 0.98; the evidence",
        ),
        ([log("top1_accuracy", 0.1, "other")], "champion's logged model on these images is not there"),
        ([], "champion's logged model on these images is not there"),
    ],
)
def test_the_champions_numbers_must_be_its_logged_models(logged, said):
    found = missing(LOGGED, against(logged))
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_id": "m-9"}, "model_id of the champion in the evidence is m-1; expected m-9"),
        ({"model_sha256": "9" * 64}, f"model_sha256 of the champion in the evidence is {'1' * 64}; expected 9"),
        ({"model_id": "", "problems": ("its logged model is not to be had",)}, "of the champion, its logged model is"),
    ],
)
def test_the_champion_of_the_evidence_must_be_the_real_one(changes, said):
    assert said in missing("not_worse: {metric: top1_accuracy, by: 0.01}", against([], **changes))


def test_where_nothing_is_compared_a_champion_whose_model_is_gone_is_no_bar():
    gone = {"model_id": "", "model_sha256": "", "problems": ("its logged model is not to be had",)}
    assert missing("", against([], **gone)) == ""


def test_what_lost_the_alias_must_be_measured_again():
    """Its old evidence is why it became champion, and it was taken back."""
    past = noted((alias_history.PROMOTE, None, 1), (alias_history.PROMOTE, 1, 2), (alias_history.ROLLBACK, 2, 1))
    old = proof(CANDIDATE, CHAMPION, measured_at="2026-01-01T00:00:00+00:00")
    assert "before it lost @champion at" in missing("", move(old, past=past))
    assert missing("", move(past=past)) == ""
    assert missing("", move(old, past=past[:1])) == ""


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 9), (9, 1), (5, 5), (60, 40), (3000, 2800)])
def test_the_test_is_mcnemars_exact_one(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_age_is_counted_from_the_measurement():
    day_old = (datetime.now(timezone.utc) - timedelta(days=1.5)).isoformat()
    assert "days ago" in missing("require: {max_age_days: 1}", move(proof(CANDIDATE, CHAMPION, measured_at=day_old)))
    assert missing("require: {max_age_days: 2}", move(proof(CANDIDATE, CHAMPION, measured_at=day_old))) == ""
