"""What is recorded of the steps of an epoch."""

import signal
import time

import mlflow
import numpy as np
import pytest
import torch
from helpers import TINY, learn
from mlflow import MlflowClient

from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.preparation import prepare_training
from mlflow_resnet.training.input.labeled_images import TrainingImages
from mlflow_resnet.training.optimizer import Schedule
from mlflow_resnet.training.progress import TrainingProgress
from mlflow_resnet.training.recipe import Recipe, phases
from mlflow_resnet.training.trainer import EpochSoFar
from mlflow_resnet.verbs.train import train

STEPS = 3  # of an epoch: 24 images in batches of 8


@pytest.fixture
def options(images):
    """Makes options of a training on the tiny images."""
    folders = {"train_dir": str(images / "train"), "val_dir": str(images / "val")}
    return lambda **changes: TrainOptions(**folders | TINY | {"num_workers": 1} | changes)


def scheduled(recipe):
    """The learning rate of every step, by the number of steps done after it."""
    rates = []
    for phase in phases(recipe):
        steps = phase.epochs * STEPS
        schedule = Schedule(phase.schedule, phase.learning_rate, steps, round(phase.warmup_epochs * STEPS))
        rates += [schedule.rate(step) for step in range(steps)]
    return dict(enumerate(rates, start=1))


def history(run_id, name):
    return sorted(MlflowClient().get_metric_history(run_id, name), key=lambda point: point.step)


def test_the_run_shows_the_learning_rate_of_every_step(trained):
    points = history(trained.run_id, "schedule/learning_rate")
    expected = scheduled(Recipe(**trained.classifier.training["recipe"]))
    assert {point.step: point.value for point in points} == expected
    assert len(points) == len(expected) == 8 * STEPS
    assert points[0].timestamp < points[-1].timestamp


def test_steps_are_counted_over_all_phases(options, trained_weights):
    wanted = options(weights=trained_weights, strategy="probe_then_finetune", epochs=3, probe_epochs=1)
    rates = [rate for result in learn(wanted).results for rate in result.rates]
    assert {step: rate for step, rate, _ in rates} == scheduled(prepare_training(wanted).recipe)
    assert [step for step, _, _ in rates] == list(range(1, 3 * STEPS + 1))


@pytest.mark.parametrize("steps", [1, 2, 48, 49, 50, 51, 98, 99, 1000])
@pytest.mark.parametrize("done", [1, 0.4])
def test_a_long_epoch_keeps_the_rates_of_few_steps(steps, done):
    """Also one that a time budget ends early."""
    epoch, last = EpochSoFar(torch.zeros(2)), max(1, round(steps * done))
    for step in range(1, last + 1):
        epoch.add(torch.zeros(2), 1 / step, steps)
    kept = [step for step, _, _ in epoch.rates]
    assert (kept[0], kept[-1]) == (1, last)
    assert min(last, 25 * done) <= len(kept) <= 50
    assert [rate for _, rate, _ in epoch.rates] == [1 / step for step in kept]
    assert len(set(np.diff(kept[:-1]))) <= 1, "evenly spaced"


@pytest.fixture
def late(monkeypatch):
    """Has each batch be there some seconds late, as from a slow disk."""
    load = TrainingImages.batches

    def by(seconds):
        def batches(*args, **kwargs):
            for batch in load(*args, **kwargs):
                time.sleep(seconds)
                yield batch

        monkeypatch.setattr(TrainingImages, "batches", batches)

    return by


def seconds_waited(metrics):
    """For the images of an epoch, by both numbers that tell it."""
    seconds = 24 / metrics["train_images_per_second"]
    waited = metrics["timing/data_share"] * seconds
    assert 24 / metrics["timing/train_images_per_second_without_data"] == pytest.approx(seconds - waited)
    return waited


@pytest.mark.slow
def test_the_time_that_slow_images_cost_is_told_apart(options, late):
    fast = [seconds_waited(result.metrics) for result in learn(options()).results]
    late(by := 1.5)
    slow = [seconds_waited(result.metrics) for result in learn(options()).results]
    for waited, waited_more in zip(fast, slow, strict=True):
        assert waited < by * STEPS < waited_more


def test_timing_is_of_the_run_and_not_of_the_model(trained):
    names = ["train_images_per_second_without_data", "data_share", "validation_seconds"]
    for name in names:
        points = history(trained.run_id, f"timing/{name}")
        assert [point.step for point in points] == list(range(1, 9)), name
        assert all(point.value > 0 for point in points), name
    model = mlflow.get_logged_model(trained.model_uri.removeprefix("models:/"))
    assert not [metric.key for metric in model.metrics if metric.key.startswith("timing/")]
    assert "train_images_per_second" in [metric.key for metric in model.metrics]


@pytest.fixture
def interrupted(monkeypatch, own_process):
    """Has the next training get a Ctrl-C in a step, which is counted over all epochs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    advance = TrainingProgress.advance

    def in_step(number):
        done = []

        def advance_and_stop(progress):
            advance(progress)
            done.append(None)
            if len(done) == number:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(TrainingProgress, "advance", advance_and_stop)

    yield in_step
    signal.signal(signal.SIGINT, before)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "step",
    [pytest.param(2, marks=SLOW), STEPS, pytest.param(STEPS + 1, marks=[pytest.mark.slow, pytest.mark.thorough])],
)
def test_a_training_that_goes_on_has_each_learning_rate_once(workdir, options, late, interrupted, step):
    late(by := 0.2)
    wanted = options(checkpoint_minutes=10, checkpoint_dir="saved")
    interrupted(step)
    with pytest.raises(KeyboardInterrupt):
        train(wanted)
    result = train(wanted)
    points = history(result.run_id, "schedule/learning_rate")
    assert [(point.step, point.value) for point in points] == list(scheduled(prepare_training(wanted).recipe).items())
    names = ("train_images_per_second", "timing/data_share", "timing/train_images_per_second_without_data")
    for epoch in zip(*(history(result.run_id, name) for name in names), strict=True):
        waited = seconds_waited({point.key: point.value for point in epoch})
        assert waited > by * STEPS
