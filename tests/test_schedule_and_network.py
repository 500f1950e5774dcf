import pytest
import torch
from torch import nn

from mlflow_resnet.model.network import build_network, fold_batch_norms
from mlflow_resnet.training.loop import build_optimizer
from mlflow_resnet.training.schedule import learning_rate_at


def test_the_decay_is_the_designers_polynomial_of_power_two():
    """The designer's rates for 5 epochs from 0.001, re-computed by hand in its documentation."""
    rates = [learning_rate_at(step, steps=5, warmup_steps=0, highest=0.001) for step in range(5)]
    assert rates == pytest.approx([0.001, 0.00064, 0.00036, 0.00016, 0.00004], abs=1e-7)


def test_the_warm_up_rises_linearly_to_the_highest_rate():
    rates = [learning_rate_at(step, steps=10, warmup_steps=4, highest=1.0) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_warm_up_as_long_as_the_run_does_not_divide_by_zero():
    rates = [learning_rate_at(step, steps=4, warmup_steps=4, highest=1.0) for step in range(4)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_weight_decay_spares_norms_and_biases():
    decayed, spared = build_optimizer(build_network("resnet18", 3), 0.1).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in spared["params"]} == {1}
    assert (decayed["momentum"], decayed["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_folding_batch_norms_keeps_the_answers(architecture):
    network = build_network(architecture, 3)
    network.train()(torch.randn(4, 3, 64, 64))  # running statistics that differ from the initial ones
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(folded(images), network.eval()(images), atol=1e-4)
