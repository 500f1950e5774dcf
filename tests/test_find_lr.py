"""The learning rate range test: `find-lr`."""

import mlflow
import numpy as np
import pytest
from helpers import TINY, flags, run_main

from mlflow_resnet import find_lr
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.options import FindLrOptions
from mlflow_resnet.training.rate_test import RatePoint, RisingRates, suggest_rates

SMALL = {name: value for name, value in TINY.items() if name != "learning_rate"} | {"steps": 20, "num_workers": 1}


def options(images, **changes):
    return FindLrOptions(**{"train_dir": str(images / "train"), "val_dir": str(images / "val")} | SMALL | changes)


def curve(losses, lowest=1e-6, highest=1.0):
    """Points of smoothed `losses`, and the options of a test that has as many steps."""
    rates = RisingRates(lowest, highest, len(losses))
    points = [RatePoint(step, rates.rate(step - 1), loss, loss) for step, loss in enumerate(losses, start=1)]
    return points, FindLrOptions(train_dir="images", steps=len(losses))


def test_the_rate_rises_by_the_same_factor_each_step():
    rates = [RisingRates(1e-4, 1.0, 5).rate(step) for step in range(5)]
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])


def test_a_tenth_of_the_minimum_is_suggested():
    suggestion = suggest_rates(*curve([*np.linspace(2, 1, 41), *np.linspace(1.1, 3, 20)]))
    assert suggestion.tenth_of_minimum == pytest.approx(1e-3)
    assert suggestion.note == ""


def test_the_steepest_fall_is_looked_for_before_the_minimum():
    falls = [0.0] * 20 + [0.01] * 10 + [0.1] + [0.01] * 10
    losses = 2 - np.cumsum(falls)
    assert suggest_rates(*curve([*losses, 9, 4, *[5] * 18])).steepest == pytest.approx(1e-3, rel=0.3)


@pytest.mark.parametrize(
    ("losses", "note"),
    [
        (np.linspace(2, 1, 30), "the loss fell until the end; give a higher highest_rate"),
        (np.linspace(1, 2, 30), "the loss never fell"),
    ],
)
def test_a_curve_without_a_minimum_is_told(losses, note):
    assert suggest_rates(*curve(list(losses))).note.startswith(note)


def test_find_lr_logs_the_curve_and_the_suggestion_and_no_model(workdir, images):
    test = find_lr(options(images))
    rates = [point.learning_rate for point in test.points]
    assert rates == sorted(rates)
    assert rates[0] == 1e-7
    run = mlflow.get_run(test.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["suggested_learning_rate"] == test.suggestion.tenth_of_minimum
    assert (run.data.params["architecture"], run.data.params["steps"]) == ("resnet18", "20")
    history = mlflow.MlflowClient().get_metric_history(test.run_id, "loss")
    assert [point.value for point in history] == pytest.approx([point.loss for point in test.points])
    assert "learning_rate_test.png" in {a.path for a in mlflow.MlflowClient().list_artifacts(test.run_id)}
    assert len(mlflow.load_table("learning_rate_test.json", run_ids=[test.run_id])) == len(test.points)
    assert mlflow.search_logged_models(output_format="list") == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_curve(workdir, images):
    first, second = (find_lr(options(images, highest_rate=1e-3)).points for _ in range(2))
    assert first == second
    assert len(first) == 20, "more than the batches of one epoch"


def test_it_ends_when_the_loss_diverges(workdir, images):
    assert len(find_lr(options(images, highest_rate=1e9)).points) < 20


def test_a_loss_that_diverges_at_once_is_an_error(workdir, images):
    with pytest.raises(InvalidOptionsError, match="already; give a lower lowest_rate"):
        find_lr(options(images, lowest_rate=1e5, highest_rate=1e20))
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("strategy", "tested"), [("probe_then_finetune", "finetune"), ("linear_probe", "linear_probe")]
)
def test_the_last_phase_is_tested(workdir, images, trained_weights, strategy, tested):
    result = find_lr(options(images, weights=trained_weights, strategy=strategy, epochs=3))
    assert result.strategy == tested
    assert mlflow.get_run(result.run_id).data.tags["mlflow_resnet.phase"] == tested


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lowest_rate": 1.0, "highest_rate": 0.1}, "highest_rate 0.1 is not above lowest_rate 1"),
        ({"lowest_rate": 0.0}, "lowest_rate is 0.0; it must be above 0"),
        ({"steps": 5}, "steps is 5; it must be at least 20"),
        ({"learning_rate": 0.1}, "learning_rate is what find-lr looks for; leave it out"),
        ({"registered_model_name": "m"}, "find-lr makes no model"),
        ({"processes": 2}, "processes is 2, but find-lr trains in one process"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        FindLrOptions(train_dir="images", **changes)
    assert problem in caught.value.message


def test_the_command_prints_the_suggestion(workdir, images):
    result = run_main("find-lr", "--train-dir", images / "train", *flags(SMALL))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("suggested learning rate ")
    assert "tested    scratch, " in result.stdout
