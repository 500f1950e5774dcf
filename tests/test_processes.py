"""Training in several processes: the same numbers, one run, and nobody left behind whatever happens."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import mlflow
import numpy as np
import psutil
import pytest
from helpers import ROOT, TINY, flags, free_port, learn, run_cli, run_main, start_cli, write_class_folders
from rounding import after_steps, assert_same_probabilities, of_auto

from mlflow_resnet.images.sources import file_source
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.launch import in_processes
from mlflow_resnet.runs.preparation import agree_on_options
from mlflow_resnet.training import processes
from mlflow_resnet.verbs.train import train

pytestmark = pytest.mark.networks

STEPS = 6  # of 8 images in 2 epochs
FAST = TINY | {"precision": "fp32", "num_workers": 1, "learning_rate": 0.001}
ENDLESS = TINY | {"epochs": 1000, "patience": 1000}


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    history: list
    probabilities: np.ndarray
    weights: dict

    def losses(self):
        names = ("train_loss", "train_top1_accuracy", "val_loss", "val_top1_accuracy")
        return [[metrics[name] for name in names] for metrics in self.history]


def outcomes(trainings):
    """Trains one after the other, without MLflow."""
    return {name: outcome(options) for name, options in trainings.items()}


def outcome(options):
    with processes.join_processes():
        learned = learn(agree_on_options(options))
    last = learned.results[-1]
    weights = {name: tensor.numpy() for name, tensor in learned.classifier.network.state_dict().items()}
    return Outcome([result.metrics for result in learned.results], last.evaluation.probabilities, weights)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, trained_weights):
    """Options of each training; 11 validation images for two processes."""
    root = tmp_path_factory.mktemp("for two")
    write_class_folders(root / "train", 8)
    write_class_folders(root / "val", 4, first_seed=100)
    (root / "val" / "007" / "00.jpg").unlink()
    data = {"train_dir": str(root / "train"), "val_dir": str(root / "val")}
    data |= {"weights": trained_weights, "strategy": "finetune"}  # random weights would amplify the rounding
    frozen = {"freeze_until": "layer4"}
    changes = {
        "frozen batch norms": frozen,
        "linear probe": {"strategy": "linear_probe", "random_horizontal_flip": True},
        "probe, then finetune": {"strategy": "probe_then_finetune", "probe_epochs": 1} | frozen,
        "accumulation": {"accumulation_steps": 2} | frozen,
        "average of weights": {"ema_decay": 0.9, "gradient_clip": 1.0} | frozen,
        "sampler": {"class_balance": "sampler"} | frozen,
        "batch norms apart": {"mixup": 0.2, "class_balance": "sqrt"},
        "a budget": {"strategy": "probe_then_finetune", "epochs": 1000, "probe_epochs": 500, "max_minutes": 0.1},
    }
    return {name: TrainOptions(**data | FAST | changed) for name, changed in changes.items()}


@pytest.fixture(scope="module")
def together(trainings):
    return in_processes(2, outcomes, {name: trainings[name] for name in ONE_LEARNS + TWO_LEARN}, {})


@pytest.fixture(scope="module")
def all_together(trainings):
    return in_processes(2, outcomes, {name: trainings[name] for name in ONE_LEARNS_TOO}, {})


ONE_LEARNS = ["average of weights"]
ONE_LEARNS_TOO = [
    "accumulation",
    "frozen batch norms",
    "linear probe",
    "probe, then finetune",
    "sampler",
]
TWO_LEARN = ["batch norms apart", "a budget"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_LEARNS)
def test_two_processes_learn_what_one_learns(name, trainings, together):
    assert_same_outcome(together[name], outcome(trainings[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_LEARNS_TOO)
def test_two_processes_learn_what_one_learns_too(name, trainings, all_together):
    assert_same_outcome(all_together[name], outcome(trainings[name]))


def assert_same_outcome(found, expected):
    np.testing.assert_allclose(found.losses(), expected.losses(), rtol=0, atol=after_steps(STEPS))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=after_steps(STEPS))


@pytest.mark.slow
def test_each_of_an_odd_number_of_validation_images_counts_once(together):
    for each in together.values():
        assert each.probabilities.shape == (11, 3)


@pytest.mark.slow
def test_batch_norms_that_see_half_a_batch_each_learn_too(together):
    first, last = together["batch norms apart"].history
    assert last["train_loss"] < first["train_loss"]


@pytest.mark.slow
def test_processes_end_a_time_budget_together(together):
    history = together["a budget"].history
    assert 2 < len(history) < 1000
    assert min(epoch["learning_rate"] for epoch in history) < FAST["learning_rate"]  # the last may begin a phase


def test_train_in_two_processes_logs_one_run_and_one_model(workdir, images):
    options = TrainOptions(
        train_dir=str(images / "train"), val_dir=str(images / "val"), processes=2, registered_model_name="two", **TINY
    )
    result = train(options)
    (run,) = mlflow.search_runs(output_format="list")
    (model,) = mlflow.search_logged_models(output_format="list")
    assert (run.info.run_id, run.info.status) == (result.run_id, "FINISHED")
    assert run.data.params["processes"] == "2"
    assert [metric.step for metric in history_of(run, "train_loss")] == [1, 2]
    assert (model.model_uri, str(model.status)) == (result.model_uri, "READY")
    assert result.version == "1"
    found = mlflow.pyfunc.load_model("models:/two/1").predict(str(images / "val"))
    expected = Predictor(result.classifier, "cpu").predict(map(file_source, sorted((images / "val").rglob("*.jpg"))))
    assert_same_probabilities(found.iloc[:, 2:-1], [p.probabilities for p in expected], of_auto())


def history_of(run, metric):
    return mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)


@pytest.mark.slow
def test_bad_images_are_told_once_and_end_all_processes(workdir, tmp_path, capfd):
    folder = write_class_folders(tmp_path / "bad", 4)
    (folder / "007" / "zero.jpg").touch()
    result = run_main("train", "--processes", 2, "--train-dir", folder, *flags(TINY))
    assert result.returncode == 2
    assert "1 unreadable image: 007/zero.jpg (empty file)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert capfd.readouterr().err == ""
    assert mlflow.search_runs(output_format="list") == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch_size": 9}, "batch_size 9 cannot be divided among 2 processes"),
        ({"device": "cuda:0"}, "device is 'cuda:0', a single GPU; give cuda, and each process takes its own"),
        ({"device": "mps"}, "processes share no mps device; give device cpu"),
        ({"device": "cpu", "sync_batch_norm": True}, "sync_batch_norm is on, but the processes have no GPUs"),
        ({"train_dir": "nowhere"}, "nowhere: does not exist"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_two_processes_cannot_do_is_said_before_they_start(workdir, images, given, sentence):
    result = run_main("train", *flags({"train_dir": images / "train", "processes": 2} | TINY | given))
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


@contextlib.contextmanager
def endless_training(images):
    """A training in two processes that has come to its second epoch, and its workers in their order."""
    with start_cli("train", "--processes", 2, "--train-dir", images / "train", *flags(ENDLESS)) as process:
        for line in process.stderr:
            if "epoch 2/1000" in line:
                break
        (torchrun,) = psutil.Process(process.pid).children()
        workers = torchrun.children()
        try:
            yield process, sorted(workers, key=lambda worker: worker.environ()["RANK"])
        finally:
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()


def ended(process, workers):
    """What the command says at its end, when its workers have ended too."""
    _, errors = process.communicate(timeout=30)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line and "INFO" not in line and not line.startswith("epoch")]


@pytest.mark.slow
def test_a_signal_ends_all_processes_and_the_run_killed(workdir, images):
    with endless_training(images) as (process, workers):
        process.send_signal(signal.SIGTERM)
        said = ended(process, workers)
    assert process.returncode == 143
    assert said == []
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_workers_do_not_outlive_a_launcher_that_is_killed(workdir, images):
    with endless_training(images) as (process, workers):
        process.kill()
        gone, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status in ("FAILED", "KILLED")


@pytest.mark.slow
def test_an_active_run_is_logged_to_and_stays_active(workdir, images):
    options = TrainOptions(train_dir=str(images / "train"), processes=2, **TINY | {"epochs": 1})
    with mlflow.start_run() as run:
        result = train(options)
        assert result.run_id == run.info.run_id
        assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"
    assert len(history_of(run, "val_loss")) == 1


@pytest.mark.slow
def test_diverging_is_told_once_with_its_exit_code(workdir, images):
    options = flags(TINY | {"learning_rate": 1e30, "processes": 2, "warmup_epochs": 0})
    result = run_cli("train", "--train-dir", images / "train", *options)
    assert result.returncode == 5
    assert result.stderr.count("the training loss became") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"processes": 2}, pytest.param({"batch_size": 9}, marks=pytest.mark.thorough)])
def test_torchrun_trains_on_two_nodes(workdir, images, given):
    options = flags({"train_dir": images / "train"} | TINY | {"epochs": 1} | given)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "-m", "mlflow_resnet", "train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    nodes = [
        subprocess.Popen(command + options, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=200) for node in nodes]
    if given == {"batch_size": 9}:
        assert all(node.returncode for node in nodes)
        assert sum(errors.count("batch_size 9 cannot be divided among 2 processes") for _, errors in said) == 1
    else:
        assert [node.returncode for node in nodes] == [0, 0], said
        assert sorted("validation top-1 accuracy" in out for out, _ in said) == [False, True]
        assert sorted("epoch 1/1" in errors for _, errors in said) == [False, True]
        (run,) = mlflow.search_runs(output_format="list")
        assert run.data.params["processes"] == "2"
