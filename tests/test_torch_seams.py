"""What `mlflow_resnet.model.torch_seams` assumes of the installed torch, a test for each assumption."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mlflow_resnet.model import torch_seams


def test_all_batch_norms_have_one_class():
    assert all(issubclass(kind, torch_seams.BatchNorm) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm))


def test_compiled_networks_have_a_prefix():
    assert list(torch.compile(nn.Linear(1, 1, bias=False)).state_dict()) == [f"{torch_seams.COMPILED_PREFIX}.weight"]


def test_the_beta_distribution_draws_from_a_dirichlet():
    called = []

    class Noting(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            called.append(function)
            return function(*args, **kwargs or {})

    with Noting():
        torch.distributions.Beta(1.0, 1.0).sample()
    assert torch_seams.sample_dirichlet in called


def test_no_memory_on_a_cpu_is_told():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert any(words in str(refused.value) for words in torch_seams.OUT_OF_MEMORY_ON_CPU)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_convolutions_of_onednn():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    inputs = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    with torch.no_grad():
        weight = torch_seams.reorder_weight(conv.weight, geometry, inputs.shape)
        expected = conv(inputs)
        for then, function in (("none", nn.Identity()), ("relu", nn.ReLU())):
            found = torch_seams.convolve(inputs, weight, conv.bias, geometry, then)
            torch.testing.assert_close(found, function(expected))
        shortcut = torch.rand_like(expected)
        added = torch_seams.add_convolution_and_rectify(shortcut.clone(), inputs, weight, conv.bias, geometry)
        torch.testing.assert_close(added, (shortcut + expected).relu())


def test_a_thread_that_computes_with_one_core_leaves_others_theirs():
    cores = torch.get_num_threads()
    with ThreadPoolExecutor(1) as before, ThreadPoolExecutor(1) as limited, ThreadPoolExecutor(1) as after:
        assert before.submit(torch.get_num_threads).result() == cores
        limited.submit(torch_seams.compute_with_one_core).result()
        torch.set_num_threads(cores)
        threads = (before, limited, after)
        assert [thread.submit(torch.get_num_threads).result() for thread in threads] == [cores, 1, cores]
    assert torch.get_num_threads() == cores
