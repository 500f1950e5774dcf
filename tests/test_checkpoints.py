import signal

import pytest
import torch
from helpers import TINY

from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.preparation import prepared
from mlflow_resnet.training import loop
from mlflow_resnet.training.checkpoints import CheckpointFolder
from mlflow_resnet.training.course import Saving

pytestmark = pytest.mark.networks


@pytest.fixture
def heeding_ctrl_c():
    """A shell's background job ignores Ctrl-C, and pytest with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_training_stopped_while_it_validates_trains_no_image_twice(images, tmp_path, monkeypatch, heeding_ctrl_c):
    options = TrainOptions(train_dir=str(images / "train"), val_dir=str(images / "val"), **TINY)
    unhurt = prepared(options)
    expected = [result.metrics["val_loss"] for result in unhurt.epochs(options)]
    validate = loop.validate

    def stopped(trainer, epoch):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(prepared(options).epochs(options, Saving(CheckpointFolder(tmp_path), minutes=10)))
    monkeypatch.setattr(loop, "validate", validate)
    training = prepared(options)
    results = list(training.epochs(options, Saving(CheckpointFolder(tmp_path), minutes=10)))
    assert [result.metrics["val_loss"] for result in results] == expected
    for name, tensor in unhurt.classifier.network.state_dict().items():
        assert torch.equal(training.classifier.network.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "a\0b"])
def test_a_checkpoint_names_no_file_elsewhere(tmp_path, name):
    from mlflow_resnet.training.checkpoints import SUMS, read

    folder = tmp_path / "000001"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"{}")
    (folder / SUMS).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match="is no name of one of its files"):
        read(folder)


def test_folders_that_are_called_almost_like_checkpoints_are_none(tmp_path):
    for name in ("1²", "²", "1x", "000002"):
        (tmp_path / name).mkdir()
    assert CheckpointFolder(tmp_path).numbers() == [2]
