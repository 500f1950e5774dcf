import json
import shutil
import signal

import pytest
import torch
from helpers import TINY

from mlflow_resnet.errors import CheckpointError
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.preparation import prepare_training
from mlflow_resnet.training import loop
from mlflow_resnet.training.checkpoints import CheckpointFolder, State, join_state, split_state
from mlflow_resnet.training.saving import Saving

pytestmark = pytest.mark.networks


@pytest.fixture
def heeding_ctrl_c():
    """A shell's background job ignores Ctrl-C, and pytest with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_training_stopped_while_it_validates_trains_no_image_twice(images, tmp_path, monkeypatch, heeding_ctrl_c):
    options = TrainOptions(train_dir=str(images / "train"), val_dir=str(images / "val"), **TINY)
    unhurt = prepare_training(options)
    expected = [result.metrics["val_loss"] for result in unhurt.epochs(options)]
    validate = loop.validate

    def stopped(trainer, epoch):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(prepare_training(options).epochs(options, Saving(CheckpointFolder(tmp_path), minutes=10)))
    monkeypatch.setattr(loop, "validate", validate)
    training = prepare_training(options)
    results = list(training.epochs(options, Saving(CheckpointFolder(tmp_path), minutes=10)))
    assert [result.metrics["val_loss"] for result in results] == expected
    for name, tensor in unhurt.classifier.network.state_dict().items():
        assert torch.equal(training.classifier.network.state_dict()[name], tensor)


def arrange_as_format_1(state):
    """The checkpoint as mlflow_resnet 0.1.0 wrote it, which gave it no format number."""
    whole = join_state(state)
    course, trainer = whole["course"], whole["trainer"]
    best, epoch = course["best"], trainer["epoch"]
    tensors = {
        "network": whole["network"],
        "optimizer": trainer["optimizer"],
        "average": trainer["average"],
        "best": best.pop("weights"),
        "evaluations": course["evaluations"],
        "sums": {"sums": epoch.pop("sums")},
    }
    facts = {name: course[name] for name in ("phase", "phase_began", "epoch", "history", "newest")}
    facts |= {"best": best, "budget_seconds": course["budget"]["seconds"]}
    facts["trainer"] = {
        "steps": trainer["steps"],
        "parts": trainer["parts"],
        "rate_factor": trainer["rate_factor"],
        "fall_from": trainer["schedule"]["fall_from"],
        "phase_seconds": trainer["schedule"]["seconds"],
        "elapsed": trainer["elapsed"],
        "validation_seconds": trainer["validation_seconds"],
        "epoch": epoch,
    }
    return State(tensors, facts)


@pytest.mark.slow
def test_checkpoints_of_either_format_lead_to_the_same_weights(images, tmp_path):
    changes = {"epochs": 3, "ema_decay": 0.9, "optimizer": "adamw"}
    options = TrainOptions(train_dir=str(images / "train"), val_dir=str(images / "val"), **TINY | changes)
    unhurt = prepare_training(options)
    expected = [result.metrics["val_loss"] for result in unhurt.epochs(options)]
    after_steps, before = CheckpointFolder(tmp_path / "now"), CheckpointFolder(tmp_path / "before")
    epochs = prepare_training(options).epochs(options, Saving(after_steps, minutes=0))
    for _ in range(2):
        next(epochs)
    epochs.close()
    shutil.rmtree(after_steps.locate(after_steps.numbers()[-1]))  # that of the epoch's end
    state = after_steps.load()
    assert (state.facts["format"], state.facts["course"]["epoch"], state.facts["trainer"]["steps"]) == (2, 1, 6)
    before.save(arrange_as_format_1(state))
    for folder in (after_steps, before):
        training = prepare_training(options)
        results = list(training.epochs(options, Saving(folder, minutes=10)))
        assert [result.metrics["val_loss"] for result in results] == expected
        for name, tensor in unhurt.classifier.network.state_dict().items():
            assert torch.equal(training.classifier.network.state_dict()[name], tensor)
    del state.facts["trainer"]["epoch"]["iterations"]
    after_steps.save(state)
    with pytest.raises(CheckpointError, match="is of something else"):
        list(prepare_training(options).epochs(options, Saving(after_steps, minutes=10)))


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            {"format": 3},
            "has format 3; this mlflow_resnet reads up to 2. Go on with the version that wrote it, or",
        ),
        ({"format": "x\n"}, "has format 'x\\\\n'; this"),
        ({}, "is of something else .*To begin anew, give"),
        ({"trainer": []}, "is of something else .*To begin anew, give"),
    ],
)
def test_a_checkpoint_of_another_format_is_refused_in_one_line(tmp_path, facts, sentence):
    folder = CheckpointFolder(tmp_path)
    folder.save(State({}, facts))
    with pytest.raises(CheckpointError, match=rf"its newest checkpoint {sentence}") as caught:
        Saving(folder).load()
    assert "--resume never" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_state_comes_back_from_tensors_and_json():
    state = {"format": 2, "a": {"b": {"x": torch.ones(2), "n": 1}, "none": {}}, "rates": [[1, 0.5]]}
    parts = split_state(state)
    assert list(parts.tensors) == ["a.b"]
    found = join_state(State(parts.tensors, json.loads(json.dumps(parts.facts))))
    assert torch.equal(found["a"]["b"].pop("x"), state["a"]["b"].pop("x"))
    assert found == state


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "a\0b"])
def test_a_checkpoint_names_no_file_elsewhere(tmp_path, name):
    from mlflow_resnet.training.checkpoints import SUMS_FILE, read_checkpoint

    folder = tmp_path / "000001"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"{}")
    (folder / SUMS_FILE).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match="is no name of one of its files"):
        read_checkpoint(folder)


def test_folders_that_are_called_almost_like_checkpoints_are_none(tmp_path):
    for name in ("1²", "²", "1x", "000002"):
        (tmp_path / name).mkdir()
    assert CheckpointFolder(tmp_path).numbers() == [2]
