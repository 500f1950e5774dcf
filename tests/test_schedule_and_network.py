import pytest
import torch
from rounding import OF_ARCHITECTURE
from torch import nn

from mlflow_resnet.model.network import build_network, fold_batch_norms
from mlflow_resnet.training.optimizer import Schedule

pytestmark = pytest.mark.networks


def rates(steps, warmup_steps=0, highest=1.0, name="polynomial"):
    schedule = Schedule(name, highest, steps, warmup_steps)
    return [schedule.rate(step) for step in range(steps)]


def test_the_decay_is_the_designers_polynomial_of_power_two():
    """The designer's rates for 5 epochs from 0.001, re-computed by hand in its documentation."""
    assert rates(5, highest=0.001) == pytest.approx([0.001, 0.00064, 0.00036, 0.00016, 0.00004], abs=1e-7)


@pytest.mark.parametrize("name", ["cosine", "polynomial", "step", "constant"])
def test_the_warm_up_rises_linearly_to_the_highest_rate(name):
    assert rates(10, warmup_steps=4, name=name)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_warm_up_as_long_as_the_run_does_not_divide_by_zero():
    assert rates(4, warmup_steps=4) == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("architecture", OF_ARCHITECTURE)
def test_folding_batch_norms_keeps_the_answers(architecture):
    network = build_network(architecture, 3)
    network.train()(torch.randn(4, 3, 64, 64))  # running statistics that differ from the initial ones
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network.eval()(images)
        error = OF_ARCHITECTURE[architecture] * expected.abs().max().item()
        torch.testing.assert_close(folded(images), expected, rtol=0, atol=error)
