"""`train --seeds`: trainings that differ in their seed only, in one run with their means."""

import json
import math
import signal

import mlflow
import numpy as np
import pytest
from helpers import TINY, flags, run_main, start_cli, wait_for
from mlflow import MlflowClient

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.seeds import find_limits, measure_spread
from mlflow_resnet.verbs.train import summarize_train, train

SEEDS = TINY | {"checkpoint_minutes": 5, "seeds": 2, "random_seed": 7}


@pytest.fixture
def tiny(images, workdir):
    """Options for a few pictures that are split by a seed."""
    return {"train_dir": str(images / "train"), "val_fraction": 0.25} | SEEDS


def runs_below(run_id):
    experiment = mlflow.get_run(run_id).info.experiment_id
    found = MlflowClient().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {int(run.data.params["random_seed"]): run for run in found}


def test_the_run_of_all_has_their_means_and_the_best_is_registered(tiny, capfd):
    options = TrainOptions(**tiny, registered_model_name="seeded", alias="champion")
    result = train(options)
    first, _, _, best, *_ = summarize_train(result, options).splitlines()
    assert ", the mean of " in first
    assert best == f"the best, seed {result.best_seed}:"
    parent, children = mlflow.get_run(result.parent_run_id), runs_below(result.parent_run_id)
    assert sorted(children) == sorted(result.records) == [7, 8]
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    values = [children[seed].data.metrics["val_loss"] for seed in (7, 8)]
    assert values[0] != values[1]
    losses = [record.metrics["val_loss"] for record in result.records.values()]
    assert parent.data.metrics["val_loss"] == pytest.approx(np.mean(losses))
    ends = [parent.data.metrics[f"seeds/val_loss_{end}"] for end in ("low", "high")]
    assert ends[0] < np.mean(losses) < ends[1]
    assert [children[seed].info.run_name.rpartition(", ")[2] for seed in (7, 8)] == ["seed 7", "seed 8"]
    assert not any("interval/" in name for name in parent.data.metrics)
    accuracies = {seed: record.metrics["val_top1_accuracy"] for seed, record in result.records.items()}
    assert accuracies[result.best_seed] == max(accuracies.values())
    version = MlflowClient().get_model_version_by_alias("seeded", "champion")
    assert (str(version.version), version.source) == (result.version, result.model_uri)
    assert [found.model_id for found in parent.outputs.model_outputs] == [result.model_uri.removeprefix("models:/")]
    assert json.loads(parent.data.tags["mlflow_resnet.seeds"]) == {
        str(seed): run.info.run_id for seed, run in children.items()
    }
    assert f"| {result.best_seed} (best) |" in parent.data.tags["mlflow.note.content"]
    assert "holds another training" not in capfd.readouterr().err


@pytest.mark.slow
def test_all_seeds_have_the_same_split_and_can_be_compared(tiny):
    result = train(TrainOptions(**tiny))
    runs = [record.run_id for record in result.records.values()]
    done = run_main("compare", *runs)
    assert done.returncode == 0, done.stderr
    assert "McNemar" in done.stdout
    refused = run_main("compare", result.parent_run_id, runs[0])
    assert refused.returncode == 2
    assert f"run {result.parent_run_id} holds trainings with several seeds" in refused.stderr
    own = train(TrainOptions(**tiny | {"seeds": 1, "random_seed": 8, "split_seed": 7, "checkpoint_minutes": 0}))
    assert own.metrics["val_loss"] == result.records[8].metrics["val_loss"]


@pytest.mark.slow
def test_the_same_command_does_nothing_again_and_more_seeds_go_on(tiny, capfd):
    first = train(TrainOptions(**tiny))
    capfd.readouterr()
    again = train(TrainOptions(**tiny))
    assert capfd.readouterr().err.count("this training is complete") == 2
    assert (again.parent_run_id, again.records) == (first.parent_run_id, first.records)
    more = train(TrainOptions(**tiny | {"seeds": 3}))
    assert more.parent_run_id == first.parent_run_id
    assert more.records.items() > first.records.items()
    assert sorted(runs_below(first.parent_run_id)) == [7, 8, 9]
    anew = train(TrainOptions(**tiny | {"resume": "never"}))
    assert anew.parent_run_id != first.parent_run_id
    assert anew.records[7].metrics["val_loss"] == first.records[7].metrics["val_loss"]


@pytest.mark.slow
@pytest.mark.faults
def test_a_kill_within_a_seed_loses_no_seed(tiny, tmp_path):
    unhurt = train(TrainOptions(**tiny | {"checkpoint_dir": str(tmp_path / "unhurt"), "epochs": 3}))
    command = ["train", *flags(tiny | {"checkpoint_dir": str(tmp_path / "hurt"), "epochs": 3})]
    with start_cli(*command) as process:
        second = tmp_path / "hurt" / "seed-8"
        wait_for(lambda: any(second.glob("*/*")), 120, 0.05, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = run_main(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("this training is complete") == 1
    (run,) = MlflowClient().search_runs(
        ["0"], f"run_id != '{unhurt.parent_run_id}' AND tags.`mlflow_resnet.seeds` != ''"
    )
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val_loss"] == pytest.approx(unhurt.spreads["val_loss"].mean)


@pytest.mark.slow
def test_two_processes_train_each_seed(tiny):
    result = train(TrainOptions(**tiny | {"processes": 2, "precision": "fp32"}))
    assert sorted(runs_below(result.parent_run_id)) == [7, 8]
    assert mlflow.get_run(result.parent_run_id).info.status == "FINISHED"


PROBLEMS = {
    "checkpoint_minutes": (0, "finished trainings are known by their folders"),
    "offline": (True, "the run that has their means needs the tracking server"),
    "random_seed": (2**63 - 1, "leaves no room for 2 seeds"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_several_seeds_cannot_have(name):
    value, problem = PROBLEMS[name]
    with pytest.raises(InvalidOptionsError, match=problem):
        TrainOptions(**{"train_dir": "images", "seeds": 2, name: value})


def test_intervals_end_where_their_metrics_do():
    assert (
        find_limits("val_top1_accuracy") == find_limits("test_macro_f1") == find_limits("train_top1_accuracy") == (0, 1)
    )
    assert find_limits("val_loss") == (0, math.inf)
    assert find_limits("calibration/temperature") == (-math.inf, math.inf)


def test_the_interval_is_students():
    """For n = 3 the 0.975 quantile of t with two degrees of freedom is 4.3027 (any table)."""
    spread = measure_spread([0.90, 0.92, 0.94])
    assert (spread.mean, spread.deviation) == (pytest.approx(0.92), pytest.approx(0.02))
    assert (measure_spread([0.2, 0.9], 0, 1).low, measure_spread([0.2, 0.9], 0, 1).high) == (0, 1)
    half = 4.3027 * 0.02 / math.sqrt(3)
    assert (spread.low, spread.high) == (pytest.approx(0.92 - half, abs=1e-5), pytest.approx(0.92 + half, abs=1e-5))
