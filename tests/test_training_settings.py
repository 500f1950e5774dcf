"""Each setting of the loop does what it says, on real images."""

import math
import os
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY, learn, write_class_folders
from rounding import about, after_steps

from mlflow_resnet.model.precision import pick_precision
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training.course import Best
from mlflow_resnet.training.input.labeled_images import class_weights, draw_weights
from mlflow_resnet.training.optimizer import Schedule, average_weights

pytestmark = pytest.mark.networks

FAST = TINY | {"epochs": 1, "num_workers": 1, "precision": "fp32"}


def options(images, **changes):
    return TrainOptions(**{"train_dir": str(images / "train"), "val_dir": str(images / "val")} | FAST | changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", [1.0, 0.75, 0.25, 0.0]),
        ("polynomial", [1.0, 4 / 9, 1 / 9, 1e-7]),
        ("step", [1.0, 0.1, 0.01, 0.001]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_a_schedule_falls_as_its_name_says(name, expected):
    schedule = Schedule(name, 1.0, steps=3, warmup_steps=0)
    assert [schedule.rate(step) for step in range(4)] == pytest.approx(expected, abs=1e-6)


def test_a_time_budget_ends_the_schedule_in_time():
    schedule = Schedule("cosine", 1.0, steps=1000, warmup_steps=0, seconds=10)
    rates = [schedule.rate(step, elapsed=step) for step in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[10] == pytest.approx(0, abs=1e-9)
    assert schedule.progress(10, elapsed=10) == 1


def test_a_warm_up_takes_a_fifth_of_a_time_budget_at_most():
    schedule = Schedule("cosine", 1.0, steps=1000, warmup_steps=900, seconds=10)
    rates = [schedule.rate(step, elapsed=step) for step in range(11)]
    assert max(rates) == rates[2] == 1.0
    assert rates[10] == pytest.approx(0, abs=1e-9)


def test_max_minutes_ends_on_the_best_model_in_time(images):
    started = time.monotonic()
    result = learn(options(images, epochs=10000, max_minutes=0.1))
    assert time.monotonic() - started < 60, "of 6 s asked for, also where one epoch takes as long; all take hours"
    rates = result.history("learning_rate")
    assert len(rates) < 1000
    assert rates[-1] < TINY["learning_rate"]
    assert result.metrics["val_top1_accuracy"] == max(result.history("val_top1_accuracy"))


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "adamw"},
        {"schedule": "step"},
        {"label_smoothing": 0.3},
        {"gradient_clip": 0.01},
        {"weight_decay": 0.5},
        {"mixup": 0.5},
        {"cutmix": 1.0},
        {"class_balance": "sampler"},
        {"auto_augment": "trivialaugment"},
        {"random_erasing": 1.0},
        {"train_crop_size": 24},
        {"learning_rate": 0.01},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_setting_changes_the_training(images, plain, given):
    result = learn(options(images, **given))
    assert math.isfinite(result.metrics["train_loss"])
    assert not torch.equal(result.classifier.network.conv1.weight, plain.classifier.network.conv1.weight)


@pytest.fixture(scope="module")
def plain(images):
    return learn(options(images))


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_the_cache_does_not_change_the_weights(images, plain, tmp_path, cache):
    result = learn(options(images, cache=cache, cache_dir=str(tmp_path / "cache"), num_workers=2))
    assert torch.equal(result.classifier.network.fc.weight, plain.classifier.network.fc.weight)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(images, trained_weights):
    """With frozen batch norms, which see a part only."""
    frozen = {"weights": trained_weights, "strategy": "finetune", "freeze_until": "layer4", "patience": 0}
    whole = learn(options(images, **frozen, epochs=2))
    parts = learn(options(images, **frozen, epochs=2, accumulation_steps=4))
    assert whole.history("train_loss") == about(parts.history("train_loss"), after_steps(steps=6))


@pytest.mark.slow
def test_both_precisions_learn(images):
    for precision in ("fp32", "bf16"):
        result = learn(options(images, precision=precision, epochs=6))
        assert result.metrics["val_top1_accuracy"] > 0.6, precision
        assert result.classifier.network.conv1.weight.dtype == torch.float32


def test_auto_takes_bf16_only_where_it_is_faster():
    cpu = Path("/proc/cpuinfo").read_text()
    flags = [line.split() for line in cpu.splitlines() if line.startswith(("flags", "Features"))]
    fast = {"amx_bf16", "bf16"} if "GenuineIntel" in cpu else {"amx_bf16", "bf16", "avx512_bf16"}
    is_held_back = os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2")
    is_fast = bool(flags) and bool(fast & set(flags[0])) and not is_held_back
    assert (pick_precision("auto", torch.device("cpu")) == torch.bfloat16) is is_fast


@pytest.mark.slow
def test_compile_trains_the_same_network(images, plain):
    result = learn(options(images, compile=True))
    assert set(result.classifier.network.state_dict()) == set(plain.classifier.network.state_dict())
    # Steps from random weights amplify the rounding, a hundred times in three steps; another network is further away.
    assert result.metrics["train_loss"] == about(plain.metrics["train_loss"], 100 * after_steps(steps=3))


def test_the_average_of_a_short_run_is_not_the_initial_weights():
    network = torch.nn.Linear(1, 1)
    average = average_weights(network, decay=0.9999)
    for step in range(20):
        torch.nn.init.constant_(network.weight, step)
        average.update_parameters(network)
    assert 15 < average.module.weight.item() < 19


def test_the_averaged_weights_are_the_ones_evaluated_and_kept(images, plain):
    result = learn(options(images, ema_decay=0.9))
    assert result.metrics["train_loss"] == plain.metrics["train_loss"], "the average takes no part in the training"
    assert not torch.equal(result.classifier.network.fc.weight, plain.classifier.network.fc.weight)


def test_rare_classes_weigh_more():
    targets = torch.tensor([0] * 90 + [1] * 10).numpy()
    balanced = class_weights(targets, "balanced", 2)
    assert balanced[1] / balanced[0] == pytest.approx(9)
    assert class_weights(targets, "sqrt", 2)[1] / class_weights(targets, "sqrt", 2)[0] == pytest.approx(3)
    assert balanced[targets].mean() == pytest.approx(1)
    assert class_weights(targets, "sampler", 2) is None
    assert draw_weights(targets, "sampler")[95] / draw_weights(targets, "sampler")[0] == pytest.approx(9)


def test_the_sampler_draws_classes_equally_often(tmp_path):
    """`train_top1_accuracy` cannot show it, so the order of an epoch is looked at."""
    from mlflow_resnet.training.input.labeled_images import LabeledImages, TrainingImages

    targets = torch.tensor([0] * 900 + [1] * 100).numpy()
    images = TrainingImages(LabeledImages(None, targets), None, 1, draw_weights(targets, "sampler"))
    assert targets[images.order(epoch=1)].mean() == pytest.approx(0.5, abs=0.05)
    assert images.order(epoch=1) != images.order(epoch=2)


@pytest.mark.parametrize("balance", ["sqrt", "balanced"])
def test_class_weights_change_the_loss_of_an_unbalanced_directory(tmp_path, images, balance):
    folder = write_class_folders(tmp_path / "unbalanced", 4)
    for picture in list((folder / "grün").iterdir())[1:]:
        picture.unlink()
    train_on = {"train_dir": str(folder), "val_dir": str(folder), "batch_size": 4}
    weighted = learn(options(images, **train_on, class_balance=balance))
    assert weighted.metrics["train_loss"] != learn(options(images, **train_on)).metrics["train_loss"]


def test_the_best_epoch_is_chosen_by_the_metric_asked_for():
    highest, lowest = Best("val_macro_f1"), Best("train_loss")
    for epoch, (f1, loss) in enumerate([(0.1, 3.0), (0.9, 2.0), (0.5, 1.0)], start=1):
        metrics = {"val_macro_f1": f1, "train_loss": loss, "val_loss": 1.0}
        highest.update(epoch, metrics, {})
        lowest.update(epoch, metrics, {})
    assert (highest.epoch, lowest.epoch) == (2, 3)


def test_patience_begins_after_its_delay():
    best = Best("val_top1_accuracy", patience=2, delay=3)
    best.update(1, {"val_top1_accuracy": 0.5, "val_loss": 1.0}, {})
    assert [best.is_over(epoch) for epoch in range(1, 7)] == [False, False, False, False, True, True]
    assert not Best("val_top1_accuracy", patience=0).is_over(1000)
