"""Many trainings and the best of them: `sweep`."""

import os
import signal
import subprocess
import sys
import time

import mlflow
import pytest
from helpers import ROOT, TINY, flags, run_main, start_cli
from mlflow import MlflowClient

from mlflow_resnet import sweep
from mlflow_resnet.errors import InvalidOptionsError, SweepError
from mlflow_resnet.options import SweepOptions, TrainOptions
from mlflow_resnet.training.recipe import RECIPES
from mlflow_resnet.tuning.search_space import default_space, own_values, read_space

RATES = "learning_rate: {low: 1e-4, high: 0.1, log: true}\nlabel_smoothing: [0.0, 0.1]\n"
SMALL = {name: value for name, value in TINY.items() if name != "learning_rate"} | {"epochs": 1, "num_workers": 1}


@pytest.fixture
def options(images, tmp_path):
    """Makes options of a sweep on the tiny images, from the text of a search space."""

    def make(space=RATES, **changes):
        path = tmp_path / "space.yaml"
        path.write_text(space)
        folders = {"train_dir": str(images / "train"), "val_dir": str(images / "val")}
        own = {"search_space": str(path), "storage": f"sqlite:///{tmp_path}/sweep.db", "retrain_best": False}
        return SweepOptions(**folders | own | SMALL | {"trials": 2} | changes)

    return make


def children(run_id):
    """The runs below a run, by name."""
    runs = mlflow.search_runs(filter_string=f"tags.`mlflow.parentRunId` = '{run_id}'", output_format="list")
    return {run.info.run_name: run for run in runs}


def statuses(run_id):
    return {name: run.info.status for name, run in children(run_id).items()}


def parents():
    runs = mlflow.search_runs(output_format="list")
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def test_a_sweep_compares_trials_and_registers_the_best(workdir, options):
    wanted = options(retrain_best=True, registered_model_name="colors", alias="champion")
    result = sweep(wanted)
    below = children(result.run_id)
    assert {name: run.info.status for name, run in below.items()} == dict.fromkeys(
        ["trial 0", "trial 1", "best"], "FINISHED"
    )
    first, best, parent = below["trial 0"], below["best"], mlflow.get_run(result.run_id)
    assert first.data.params["learning_rate"] == str(RECIPES["scratch"].learning_rate), "the recipe comes first"
    assert set(first.data.metrics) >= {"best_val_top1_accuracy", "val_loss", "train_loss"}
    assert "search_space" not in first.data.params
    assert first.outputs.model_outputs == []
    assert best.data.params["learning_rate"] == str(result.best_values["learning_rate"])
    assert parent.data.metrics["val_top1_accuracy"] == result.best_value == result.trained.metrics["val_top1_accuracy"]
    assert parent.data.tags["best.learning_rate"] == str(result.best_values["learning_rate"])
    assert [f"models:/{o.model_id}" for o in parent.outputs.model_outputs] == [result.trained.model_uri]
    history = MlflowClient().get_metric_history(result.run_id, "best_val_top1_accuracy")
    assert [point.step for point in history] == [0, 1]
    assert {a.path for a in MlflowClient().list_artifacts(result.run_id)} >= {"search_space.json", "trials.csv"}
    assert MlflowClient().get_model_version_by_alias("colors", "champion").run_id == best.info.run_id
    again = sweep(wanted)
    assert (again.run_id, again.trials, again.trained) == (result.run_id, 2, None), "all was done before"
    assert len(mlflow.search_runs(output_format="list")) == 4


def test_the_same_sweep_goes_on_where_it_stopped(workdir, options):
    first = sweep(options(trials=1))
    more = sweep(options(trials=3))
    assert (more.run_id, more.study_name, more.trials) == (first.run_id, first.study_name, 3)
    assert sorted(children(first.run_id)) == ["trial 0", "trial 1", "trial 2"]
    rates = {run.data.params["learning_rate"] for run in children(first.run_id).values()}
    assert len(rates) == 3, "the sampler does not repeat itself"
    assert mlflow.get_run(first.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_deleted_parent_run_is_replaced(workdir, options):
    first = sweep(options(trials=1))
    mlflow.delete_run(first.run_id)
    more = sweep(options(trials=2))
    assert more.run_id != first.run_id
    assert list(children(more.run_id)) == ["trial 1"]


@pytest.mark.slow
def test_other_options_make_another_study_or_are_refused_under_its_name(workdir, options):
    first = sweep(options(trials=1, study_name="mine"))
    assert sweep(options(trials=1, random_seed=2)).study_name != first.study_name == "mine"
    with pytest.raises(SweepError, match="study mine was begun with other values of random_seed, search_space, so"):
        sweep(options("mixup: [0.0, 0.2]", trials=2, study_name="mine", random_seed=2))


@pytest.mark.slow
def test_a_trial_that_diverges_does_not_end_the_sweep(workdir, options):
    result = sweep(options("learning_rate: [0.003, 1e30]", trials=5))
    below = children(result.run_id).values()
    assert len(below) == result.trials == 5
    failed = [run for run in below if run.info.status == "FAILED"]
    assert {run.data.params["learning_rate"] for run in failed} == {"1e+30"}
    assert failed[0].data.tags["mlflow_resnet.ended"].startswith("the training loss became")
    assert result.best_values == {"learning_rate": 0.003}
    assert mlflow.get_run(result.run_id).info.status == "FINISHED"


def test_a_sweep_in_which_nothing_works_says_why(workdir, options):
    with pytest.raises(SweepError, match="none of the 2 trials has a result; the last error: the training loss became"):
        sweep(options("learning_rate: {low: 1e29, high: 1e30}"))
    (parent,) = parents()
    assert parent.info.status == "FAILED"


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned(workdir, options):
    space = "learning_rate: {low: 1e-9, high: 0.03, log: true}"
    result = sweep(options(space, trials=8, epochs=2, best_metric="val_loss"))
    below = children(result.run_id).values()
    killed = [run for run in below if run.info.status == "KILLED"]
    assert len(below) == result.trials == 8
    assert 1 <= len(killed) <= 3, "after five trials at the earliest"
    assert killed[0].data.tags["mlflow_resnet.ended"].startswith("pruned after epoch ")
    assert min(run.data.metrics["val_loss"] for run in killed) > result.best_value


@pytest.mark.slow
def test_a_trial_that_time_interrupts_does_not_count(workdir, options):
    with pytest.raises(SweepError, match="none of the 0 trials has a result; give more sweep_minutes"):
        sweep(options(trials=1, sweep_minutes=0.001, epochs=3))
    (parent,) = parents()
    (interrupted,) = children(parent.info.run_id).values()
    assert interrupted.info.status == "KILLED"
    assert interrupted.data.tags["mlflow_resnet.ended"] == "out of time after epoch 1"
    result = sweep(options(trials=1, epochs=3))
    assert (result.run_id, result.trials, result.best_trial) == (parent.info.run_id, 1, 1)


@pytest.mark.slow
def test_a_callers_own_run_becomes_the_parent(workdir, options):
    with mlflow.start_run() as own:
        assert sweep(options(trials=1)).run_id == own.info.run_id
        assert mlflow.active_run().info.run_id == own.info.run_id
    assert statuses(own.info.run_id) == {"trial 0": "FINISHED"}


def test_everything_wrong_with_a_search_space_is_told_before_the_first_trial(workdir, options):
    space = """
    learning_rat: [0.1]
    train_dir: [a, b]
    learning_rate: {low: 0.1, high: 1e-4}
    weight_decay: {low: 0, high: 1, log: true}
    batch_size: {low: 8, high: 16, step: 9}
    epochs: [1, 2]
    optimizer: {low: 1, high: 2}
    mixup: 0.2
    random_crop: ["yes"]
    padding: ["8.0"]
    train_crop_size: [.inf]
    """
    with pytest.raises(InvalidOptionsError) as caught:
        sweep(options(space, batch_size="auto"))
    expected = [
        "learning_rat is no option of train; did you mean learning_rate?",
        "train_dir must be the same in every trial; give it as an option of the sweep",
        "learning_rate has low 0.1 and high 0.0001; low must be below high",
        "weight_decay has low 0.0 and log: true; low must be above 0 then",
        "batch_size has step 9; it must be above 0, at most high - low, and without log: true",
        "epochs is also given as an option, 1; leave one of them out",
        "optimizer is {'low': 1, 'high': 2}; give a list of values",
        "mixup is 0.2; give a list of values, or a range such as {low: 1, high: 8}",
        "random_crop has the value 'yes'; it must be true or false",
        "padding has the value '8.0'; it must be a whole number",
        "train_crop_size has the value inf; it must be a whole number",
    ]
    assert list(caught.value.problems) == [f"search_space: {problem}" for problem in expected]
    assert mlflow.search_runs(output_format="list") == []


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ("optimizer: [sgd, adam]", "search_space: optimizer is 'adam'; choose one of auto, sgd, adamw"),
        ("min_crop_area: {low: 0.5, high: 2}", "search_space: min_crop_area is 2.0; it must be at most 1"),
        ("batch_size: [8, 64]", "search_space: batch_size is 64, more than the 24 training images; lower it"),
        ("[learning_rate]", "must map names of options to values"),
        ("a: [1", "cannot be read as YAML"),
    ],
)
def test_values_that_no_trial_could_take_are_refused(workdir, options, space, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        sweep(options(space, batch_size="auto"))
    assert problem in caught.value.message


def test_numbers_without_a_dot_are_numbers(tmp_path):
    """YAML 1.1 takes 1e-4 for text."""
    path = tmp_path / "space.yaml"
    path.write_text("learning_rate: {low: 1e-4, high: 1e-1, log: true}\nmixup: [auto, 1e-1]\nbatch_size: [16]")
    space = read_space(str(path), TrainOptions(train_dir="images"))
    assert space["learning_rate"].extremes == (1e-4, 0.1)
    assert space["mixup"].values == ("auto", 0.1)
    assert space["batch_size"].values == (16,)


@pytest.mark.parametrize("strategy", ["scratch", "finetune", "linear_probe"])
def test_the_default_space_surrounds_the_recipe(strategy):
    recipe, options = RECIPES[strategy], TrainOptions(train_dir="images", strategy=strategy)
    space = default_space(recipe, options, images=1000)
    assert {"learning_rate", "weight_decay", "label_smoothing", "batch_size"} <= set(space)
    assert ("mixup" in space) == (strategy != "linear_probe")
    assert own_values(space, recipe, options)["learning_rate"] == recipe.learning_rate


def test_given_options_are_not_varied():
    options = TrainOptions(train_dir="images", learning_rate=0.1, batch_size=8)
    assert not {"learning_rate", "batch_size"} & set(default_space(RECIPES["scratch"], options, images=1000))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trials": 0}, "trials is 0; it must be at least 1"),
        ({"processes": 2}, "processes is 2, but sweep trains in one process"),
        ({"storage": ""}, "storage is empty"),
        ({"retrain_best": False, "registered_model_name": "m"}, "leave one of them out"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        SweepOptions(train_dir="images", **changes)
    assert problem in caught.value.message


def test_a_storage_that_cannot_be_opened_is_named(workdir, options):
    with pytest.raises(SweepError, match="storage sqlite:////no/such/folder/sweep.db cannot be opened"):
        sweep(options(storage="sqlite:////no/such/folder/sweep.db"))


def test_a_password_of_the_storage_is_not_shown(workdir, options):
    with pytest.raises(SweepError) as caught:
        sweep(options(storage="no-such-database://me:se:cr@t@host/db"))
    assert "storage no-such-database://host/db cannot be opened" in caught.value.message
    assert "cr@t" not in caught.value.message


def test_without_optuna_the_command_says_how_to_install_it(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.trial", None)
    monkeypatch.delitem(sys.modules, "mlflow_resnet.verbs.sweep")
    result = run_main("sweep", "--train-dir", "images")
    assert result.returncode == 2
    assert result.stderr.strip().endswith("install it: pip install 'optuna>=4'")


def test_the_command_prints_the_best_values(workdir, images):
    values = flags(SMALL | {"trials": 1, "pruning": False})
    result = run_main("sweep", "--train-dir", images / "train", *values)
    assert result.returncode == 0, result.stderr
    assert "in trial 0 of 1\n" in result.stdout
    assert "--learning-rate 0.05" in result.stdout
    assert "model     models:/m-" in result.stdout
    assert (workdir / "sweep.db").exists()


def command_line(given):
    return flags({name: getattr(given, name) for name in ["train_dir", "val_dir", "search_space", "storage", *SMALL]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "parents_status"),
    [pytest.param(signal.SIGINT, "KILLED", marks=pytest.mark.thorough), (signal.SIGKILL, "RUNNING")],
)
def test_a_sweep_that_was_killed_goes_on(workdir, options, monkeypatch, sent, parents_status):
    monkeypatch.setattr("mlflow_resnet.tuning.trials.TRIAL_GRACE_SECONDS", 1)
    command = ["sweep", *command_line(options()), "--trials", 4]
    with start_cli(*command) as process:
        next(line for line in process.stderr if line.startswith("trial 2:"))
        next(line for line in process.stderr if line.startswith("training images:"))
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    (parent,) = parents()
    assert parent.info.status == parents_status
    time.sleep(2)  # heartbeats are kept in whole seconds, so two are surely more than the grace period of one
    result = run_main(*command)
    assert result.returncode == 0, result.stderr
    assert "going on after 2 of 4 trials" in result.stderr
    assert mlflow.get_run(parent.info.run_id).info.status == "FINISHED"
    ended = dict.fromkeys(["trial 0", "trial 1", "trial 3", "trial 4", "best"], "FINISHED")
    assert statuses(parent.info.run_id) == ended | {"trial 2": "KILLED"}
    assert len(parents()) == 1


@pytest.mark.slow
@pytest.mark.thorough
def test_two_sweeps_share_the_trials(workdir, options):
    command = [sys.executable, "-m", "mlflow_resnet", "sweep", *command_line(options()), "--trials", "6"]
    sweep(options(trials=1))
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    (parent,) = parents()
    names = sorted(children(parent.info.run_id))
    assert 6 <= len([name for name in names if name.startswith("trial")]) <= 7
    assert names[0] == "best"


@pytest.mark.slow
def test_mlflow_run_sweeps_below_its_own_run(workdir, images, options):
    given = SMALL | {"train_dir": images / "train", "storage": options().storage, "trials": 1}
    parameters = [text for name, value in given.items() for text in ("-P", f"{name}={value}")]
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "sweep", "--env-manager", "local"]
    result = subprocess.run(command + parameters, env=os.environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (parent,) = parents()
    assert parent.info.status == "FINISHED"
    assert statuses(parent.info.run_id) == {"trial 0": "FINISHED", "best": "FINISHED"}
