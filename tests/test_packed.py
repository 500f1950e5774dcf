"""The CPU's form of a network: the same answers, whatever the number and the size of the images."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from rounding import OF_ARCHITECTURE, assert_same_probabilities
from tiers import needs
from torch import Size, nn

from mlflow_resnet.model.classifier import new_classifier
from mlflow_resnet.model.network import fold_batch_norms, split_after
from mlflow_resnet.model.onednn import PackedConv, pack_stages
from mlflow_resnet.model.prepared import PictureGraph, TorchForward
from mlflow_resnet.model.preprocessing import Preprocessing

pytestmark = pytest.mark.networks

CPU = torch.device("cpu")
CLASSES = ("bark", "leaf", "moss")


def classifier_of(architecture):
    """With batch norms that do something."""
    classifier = new_classifier(architecture, CLASSES, Preprocessing(resize_size=64, crop_size=64))
    draw = torch.Generator().manual_seed(1)
    for module in classifier.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draw) / 20)
            module.running_var.copy_(0.8 + 0.4 * torch.rand(module.running_var.shape, generator=draw))
    return classifier


def images_of(number, size=64):
    draw = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, size, size, 3), dtype=torch.uint8, generator=draw).permute(0, 3, 1, 2)


def expected_of(classifier, images):
    with torch.no_grad():
        return PictureGraph(classifier)(images).numpy()


@pytest.mark.parametrize("architecture", OF_ARCHITECTURE)
@pytest.mark.parametrize("number", [1, 3, 19])
def test_the_same_probabilities_for_one_image_and_for_many(architecture, number):
    classifier, images = classifier_of(architecture), images_of(number)
    found = TorchForward(classifier, CPU)(images)
    assert_same_probabilities(found, expected_of(classifier, images), OF_ARCHITECTURE[architecture])


def test_images_of_another_size():
    classifier = classifier_of("resnet18")
    forward = TorchForward(classifier, CPU)
    for images in (images_of(2), images_of(2, size=96), images_of(1, size=96)):
        assert_same_probabilities(forward(images), expected_of(classifier, images))


def test_threads_that_share_a_network_do_not_change_each_others_images():
    classifier = classifier_of("resnet18")
    forward = TorchForward(classifier, CPU)
    requests = [images_of(number) for number in (1, 2, 3, 5, 8, 13)] * 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(forward, requests))
    for images, found in zip(requests, answers, strict=True):
        assert_same_probabilities(found, expected_of(classifier, images))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason=needs("oneDNN", "a torch that is built with it"))
def test_the_networks_convolutions_are_packed():
    stages, _ = split_after(fold_batch_norms(classifier_of("resnet18").network), "layer4")
    assert isinstance(pack_stages(stages, Size([1, 3, 64, 64]))[0], PackedConv)


def test_a_network_whose_numbers_say_nothing_stays_as_it_is():
    stages, _ = split_after(fold_batch_norms(classifier_of("resnet18").network), "layer4")
    with torch.no_grad():
        stages[0].weight.fill_(float("nan"))
    assert pack_stages(stages, Size([1, 3, 64, 64])) is stages


def wrong(module, inputs, then="none"):
    return torch.ops.mkldnn._convolution_pointwise(
        inputs, module.weight, module.bias, *module.geometry, then, [], ""
    ).mul(1.01)


def missing(module, inputs, then="none"):
    raise TypeError("this torch has another signature")


@pytest.mark.parametrize("forward", [wrong, missing])
def test_operators_that_compute_something_else_are_not_used(monkeypatch, forward):
    stages, _ = split_after(fold_batch_norms(classifier_of("resnet18").network), "layer4")
    monkeypatch.setattr(PackedConv, "forward", forward)
    assert pack_stages(stages, Size([1, 3, 64, 64])) is stages


@pytest.mark.parametrize(
    "modules",
    [[nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False), nn.Tanh()], [nn.AvgPool2d(2)]],
    ids=["convolutions", "no weights"],
)
def test_a_network_of_other_blocks_gives_the_same_answers(modules):
    stages, inputs = nn.Sequential(*modules), images_of(2, size=32) / 255
    with torch.no_grad():
        torch.testing.assert_close(pack_stages(stages, inputs.shape)(inputs), stages(inputs))
