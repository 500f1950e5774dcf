import signal

import pytest
import torch
from helpers import TINY

from mlflow_resnet.options import TrainOptions
from mlflow_resnet.preparation import prepared
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
