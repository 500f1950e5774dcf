"""`--epoch-models`: the weights of every epoch as a model that can be compared, loaded and scored with."""

import signal
from functools import partialmethod

import mlflow
import numpy as np
import pytest
from helpers import TINY, run_main
from mlflow import MlflowClient
from rounding import about

from mlflow_resnet import load_model
from mlflow_resnet.evaluation.evaluation import evaluate_directory
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options import SyncOptions, TrainOptions
from mlflow_resnet.tracking.pieces import EpochPiece, ModelFilesPiece
from mlflow_resnet.tracking.record import log_epoch
from mlflow_resnet.verbs.sync import sync
from mlflow_resnet.verbs.train import train

KEPT = {"checkpoint_minutes": 10, "checkpoint_dir": "saved"}


@pytest.fixture
def options(images):
    """Makes options of a training on the tiny images."""
    folders = {"train_dir": str(images / "train"), "val_dir": str(images / "val")}
    return lambda **changes: TrainOptions(**folders | TINY | {"num_workers": 1, "epoch_models": True} | changes)


def epoch_models(ascending=True):
    """All there are, in the order of their losses on the validation images."""
    return mlflow.search_logged_models(
        filter_string="name LIKE 'epoch-%'",
        order_by=[{"field_name": "metrics.val_loss", "ascending": ascending, "dataset_name": "val"}],
        output_format="list",
    )


def assert_each_epoch_has_its_model(run_id, images, epochs):
    """Once, with the metrics and the predictions of the epoch, and linked to the run and the validation images."""
    client, models = MlflowClient(), {model.name: model for model in epoch_models()}
    run = client.get_run(run_id)
    steps = {output.model_id: output.step for output in run.outputs.model_outputs}
    assert sorted(models) == [f"epoch-{epoch}" for epoch in range(1, epochs + 1)]
    assert len(epoch_models()) == epochs
    assert len(steps) == epochs + 1, "and the one that is kept"
    for epoch in range(1, epochs + 1):
        model = models[f"epoch-{epoch}"]
        assert (model.source_run_id, str(model.status), steps[model.model_id]) == (run_id, "READY", epoch)
        logged = {(metric.key, metric.step, metric.dataset_name): metric.value for metric in model.metrics}
        for name, again in metrics_again(model, images).items():
            (point,) = [each for each in client.get_metric_history(run_id, name) if each.step == epoch]
            assert logged[name, epoch, "val"] == point.value == about(again)


def metrics_again(model, images):
    """Accuracy and loss of a logged model, measured anew."""
    found = evaluate_directory(Predictor(load_model(model.model_uri), "cpu"), list_labeled(images / "val")).headline
    return {"val_top1_accuracy": found["top1_accuracy"], "val_loss": found["log_loss"]}


@pytest.mark.parametrize(
    "changes",
    [KEPT, pytest.param({"ema_decay": 0.9}, marks=[pytest.mark.slow, pytest.mark.thorough])],
    ids=["by way of the outbox", "at once, averaged"],
)
def test_each_epoch_has_a_model_with_its_metrics(workdir, images, options, changes):
    result = train(options(**changes))
    assert_each_epoch_has_its_model(result.run_id, images, 2)
    scored = mlflow.pyfunc.load_model(epoch_models()[0].model_uri).predict(str(images / "val"))
    assert set(scored["error"]) == {""}
    (kept,) = mlflow.search_logged_models(filter_string="name = 'model'", output_format="list")
    assert f"models:/{kept.model_id}" == result.model_uri
    best = next(model for model in epoch_models() if model.name == f"epoch-{result.best_epoch}")
    weights, expected = (load_model(each.model_uri).network.state_dict() for each in (best, kept))
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected.items())
    losses = [metrics_again(model, images)["val_loss"] for model in epoch_models()]
    assert losses[0] < losses[1]
    assert [model.name for model in epoch_models(ascending=False)] == [model.name for model in epoch_models()][::-1]


@pytest.mark.slow
def test_a_head_that_is_trained_first_has_models_too(workdir, images, options, trained_weights):
    wanted = options(weights=trained_weights, strategy="probe_then_finetune", epochs=2, probe_epochs=1, ema_decay=0.5)
    assert_each_epoch_has_its_model(train(wanted).run_id, images, 2)


def test_without_the_option_there_is_only_the_model_that_is_kept(workdir, options):
    result = train(options(epoch_models=False))
    (model,) = mlflow.search_logged_models(output_format="list")
    assert (model.name, f"models:/{model.model_id}") == ("model", result.model_uri)


@pytest.mark.slow
def test_offline_they_wait_for_sync(workdir, images, options):
    assert train(options(offline=True, **KEPT)).run_id == ""
    assert epoch_models() == []
    assert_each_epoch_has_its_model(sync(SyncOptions(directory="saved")).run_id, images, 2)


@pytest.fixture
def heeding_ctrl_c():
    """A shell's background job ignores Ctrl-C, and pytest with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_training_that_goes_on_has_the_model_of_an_epoch_that_was_not_recorded(
    workdir, images, options, monkeypatch, heeding_ctrl_c
):
    def stopped(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("mlflow_resnet.tracking.record.log_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(options(ema_decay=0.9, **KEPT))
    assert epoch_models() == []
    monkeypatch.setattr("mlflow_resnet.tracking.record.log_epoch", log_epoch)
    assert_each_epoch_has_its_model(train(options(ema_decay=0.9, **KEPT)).run_id, images, 2)


@pytest.mark.slow
def test_an_answer_that_is_lost_leaves_no_second_model(workdir, images, options, monkeypatch):
    """Each piece arrives, but the first time nobody learns of it, as after kill -9 between the two."""
    seen = set()

    def lose_answer(piece, send, *arguments):
        send(piece, *arguments)
        if piece.id not in seen:
            seen.add(piece.id)
            raise ConnectionError("the answer was lost")

    for kind in (EpochPiece, ModelFilesPiece):
        monkeypatch.setattr(kind, "send", partialmethod(lose_answer, kind.send))
    result = train(options(**KEPT))
    assert len(seen) == 3
    assert_each_epoch_has_its_model(result.run_id, images, 2)
    for name in ("train_loss", "schedule/learning_rate", "timing/data_share"):
        steps = [point.step for point in MlflowClient().get_metric_history(result.run_id, name)]
        assert len(steps) == len(set(steps)), name


@pytest.mark.slow
def test_the_option_can_be_turned_on_in_the_middle(workdir, options, monkeypatch, heeding_ctrl_c):
    def stopped(*args, **kwargs):
        log_epoch(*args, **kwargs)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("mlflow_resnet.tracking.record.log_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(options(epoch_models=False, **KEPT))
    monkeypatch.setattr("mlflow_resnet.tracking.record.log_epoch", log_epoch)
    train(options(**KEPT))
    assert [model.name for model in epoch_models()] == ["epoch-2"]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_first_of_two_processes_logs_them(workdir, images, options):
    result = train(options(processes=2))
    assert_each_epoch_has_its_model(result.run_id, images, 2)


def test_help_says_what_they_cost():
    text = " ".join(run_main("train", "--help").stdout.split())
    assert "--epoch-models true|false log the weights of every epoch as a model too" in text
    assert "offline they all wait on the disk" in text
